"""Reliability table, rows R1 to R19: what is promised, how it is measured, what was found.

    python benchmarks/bench_reliability.py [--quick] [--rows R7 R9 ...]

Rows that other programs of this repository measure are cited with their commands. The exit status is 1 if a row that
was measured falls short. Results in benchmarks/results/reliability.txt (not with --rows).
"""
import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
from common import RESULTS, machine
from random_fields import pair

import pmapde
from pmapde import archive, schedules
from pmapde.models import MODELS
from pmapde.status import Status
from pmapde.transport import PiecewiseAffineMap

ROOT = Path(__file__).resolve().parents[1]
CITED = {
    "R1": ("solves random pairs", "python benchmarks/bench_robustness.py"),
    "R2": ("no silent failure", "python benchmarks/bench_robustness.py (an independent verdict on every run)"),
    "R4": ("order of accuracy", "pytest tests/test_convergence.py; python benchmarks/accuracy.py"),
    "R6": ("decay at the predicted rate", "pmapde rates --only decay; pytest tests/test_flow.py"),
    "R15": ("ranks of the distributed engine", "tests of the distributed engine"),
    "R17": ("fall-back of linear solvers", "python benchmarks/bench_linear.py; pytest tests/test_linear.py"),
    "R18": ("work counts do not drift", "pytest tests/test_full_multigrid.py tests/test_solve.py"),
    "R19": ("fair peers", "python benchmarks/bench_peers.py"),
}


def smooth(n, ndim=2):
    x = (np.arange(n) + 0.5) / n
    return pmapde.TransportProblem(sum(np.meshgrid(*[x] * ndim, indexing="ij")) + 1, np.ones((n,) * ndim))


def rough(kind="microscopy", shape=(16, 16), contrast=1e3, seed=0):
    return pmapde.TransportProblem(*pair(kind, shape, contrast, seed))


# R3, every status


def _folded():
    """A solution whose folds stay: straightening them, which succeeds on nearly everything, is left out."""
    with mock.patch.object(PiecewiseAffineMap, "unfolded", lambda self, source_values: self):
        return pmapde.solve(rough(), pmapde.PseudoTransient(subdivision=1))


def statuses():
    """How each Status is reached: a function without arguments that returns the result."""
    grid = pmapde.Grid((32, 32))
    centres = grid.cell_centres().reshape(2, -1).T

    def holes(x):  # finite at the cell centres, where the problem looks; not between them
        return np.where(np.abs(x[:, None, 0] - centres[None, ::32, 0]).min(axis=1) < 1e-9, 0.0, np.inf)

    wave = 1 + 0.5 * np.cos(np.pi * grid.cell_centres()[0])
    not_finite = pmapde.TransportProblem(wave, pmapde.LogDensity(holes, gradient=lambda x: 0 * x))
    plain, easy = pmapde.PseudoTransient(conserve=False), smooth(24)
    impatient = pmapde.PseudoTransient(conserve=False, nested=False, smallest_step=1e3,
                                       newton=pmapde.Newton(max_halvings=0))
    return {
        Status.CONVERGED: lambda: pmapde.solve(easy),
        Status.FINAL_TIME: lambda: pmapde.flow(easy, 0.01),
        Status.MARGINALS_MET: lambda: pmapde.sinkhorn(easy, 0.01),
        Status.SWEEPS_DONE: lambda: pmapde.sinkhorn(easy, 0.01, 2),
        Status.STOPPED: lambda: pmapde.solve(easy, callback=lambda step: True),
        Status.MAX_STEPS: lambda: pmapde.solve(rough(), max_steps=1),
        Status.MAX_SWEEPS: lambda: pmapde.sinkhorn(easy, 1e-3, 2, tolerance=1e-9),
        Status.MAX_SECONDS: lambda: pmapde.solve(rough(), max_seconds=0),
        Status.STAGNATED: lambda: pmapde.solve(rough("white noise", (8, 8, 8), 1e6), plain, tolerance=1e-300),
        Status.NEWTON_STALLED: lambda: pmapde.flow(rough("photographs", (32, 32)), 1.0, pmapde.BackwardEuler(
            step=0.5, max_iterations=1)),
        Status.STEP_TOO_SMALL: lambda: pmapde.solve(rough("white noise", (32, 32), 10), impatient),
        Status.MASS_MISPLACED: lambda: pmapde.solve(rough(shape=(32, 32)), plain),
        Status.FOLDED: _folded,
        Status.LINEAR_STALLED: lambda: pmapde.solve(rough("shapes", (16, 16), 1e6), pmapde.PseudoTransient(
            conserve=False, nested=False, linear=pmapde.Spectral())),
        Status.NOT_RESOLVED: lambda: MODELS["two_modes"].posterior(tolerance=1e-9, max_cells=2**14).fit(),
        Status.DIVERGED: lambda: pmapde.sinkhorn(easy, 1e-3, 600, step=2.2e-3),
        Status.NONFINITE: lambda: pmapde.solve(not_finite),
        Status.CONVEXITY_LOST: lambda: pmapde.mirror_descent(easy, schedules.constant(100.0, True), 3),
    }


def every_status(full):
    reached = {}
    for status, run in statuses().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reached[status] = run().status
    wrong = [f"{status.name} gave {got.name}" for status, got in reached.items() if got is not status]
    missing = set(Status) - set(reached)
    return not wrong and not missing, f"{len(reached) - len(wrong)} of {len(Status)} reached {'; '.join(wrong)}"


# R5, exact special cases


def special_cases(full):
    """Flips and rotations of both densities flip the map; the identity; mass."""
    problem = rough("Gaussian, moderate", (24, 24), 10)
    source, target = problem.source_values, problem.target_values
    here, worst = pmapde.solve(problem), 0.0
    for change, back in ((lambda a: a[::-1], lambda d: np.stack([-d[0][::-1], d[1][::-1]])),
                         (lambda a: a.T, lambda d: np.stack([d[1].T, d[0].T])),
                         (lambda a: a[::-1, ::-1], lambda d: -d[:, ::-1, ::-1])):
        there = pmapde.solve(pmapde.TransportProblem(change(source), change(target)))
        worst = max(worst, float(np.abs(back(there.displacement) - here.displacement).max()))
    identity = pmapde.solve(pmapde.TransportProblem(source, source), pmapde.PseudoTransient(conserve=False))
    mass = abs(here.push_forward().sum() * problem.target_grid.cell_volume - 1)
    still = float(np.abs(identity.displacement).max())
    return worst < 1e-12 and mass < 1e-12 and still < 0.1 / 24, (  # a tenth of a cell: the discretisation
        f"flips and transposes to {worst:.0e}, identity moves {still:.0e} (cells of 4e-02), mass {mass:.0e}")


# R7, R8: killed at random moments

CHILD = """
import sys, time, warnings
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
import numpy as np
import bench_reliability
kind, checkpoint, out = sys.argv[1:4]
bench_reliability.killed_run(kind, checkpoint or None).save(out)
"""
KINDS = ("solve", "flow", "mirror_descent")


def killed_run(kind, path=None):
    """A run of a second or so that is long enough to be killed: it waits a little after every step."""
    checkpoint = None if path is None else pmapde.Checkpoint(path, 0)

    def wait(*_):
        time.sleep(0.01)
    warnings.simplefilter("ignore")
    if kind == "solve":  # with corrections, fall-backs and subdivided cells
        return pmapde.solve(rough("microscopy", (24, 24), 1e3, 1), callback=wait, checkpoint=checkpoint)
    if kind == "flow":
        return pmapde.flow(rough("Gaussian, smooth", (24, 24), 10), [1e-3, 1e-2, 0.1, 1.0], tolerance=1e-4,
                           ledger="full", callback=wait, checkpoint=checkpoint)
    return pmapde.mirror_descent(rough("Gaussian, smooth", (24, 24), 10), schedules.geometric(1e-3, 1.1), 60,
                                 scheme="implicit", ledger="full", callback=wait, checkpoint=checkpoint)


def _child(*arguments, code=CHILD, **settings):
    return subprocess.Popen([sys.executable, "-c", code.format(root=str(ROOT)), *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def same_results(first, second):
    """Whether two result files hold the same bits, seconds left aside."""
    (one, arrays), (other, others) = (archive.read(path, tuple(_FORMATS), "a result") for path in (first, second))
    for header in (one, other):
        header["stats"].pop("seconds")
    return (json.dumps(one) == json.dumps(other) and arrays.keys() == others.keys()
            and all(np.array_equal(arrays[name], others[name], equal_nan=True) for name in arrays))


_FORMATS = ("pmapde solution 4", "pmapde trajectory 2", "pmapde mirror descent 1")


def kill_trial(kind, folder, generator, uninterrupted, most):
    """Kill a run ``most`` times, or until it ends by itself; ``(kills, unreadable checkpoints, same bits)``."""
    folder, kills, unreadable = Path(tempfile.mkdtemp(dir=folder)), 0, 0
    checkpoint, out = folder / "run.npz", folder / "out.npz"
    while True:
        process, before = _child(kind, checkpoint, out), checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)  # until it computes
        try:
            process.wait(generator.uniform(0, 0.5) if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            return kills, unreadable, False
        if checkpoint.exists():
            try:
                archive.read(checkpoint, ("pmapde checkpoint 1",), "a checkpoint")
            except ValueError:
                unreadable += 1
        if process.returncode == 0:
            return kills, unreadable, same_results(out, uninterrupted)


def killed(full, kinds=KINDS, most=5):
    generator, trials, kills, lost, same = random.Random(1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            reference = Path(folder) / f"{kind}.npz"
            killed_run(kind).save(reference)
            for _ in range(3 if full else 1):
                outcome = kill_trial(kind, folder, generator, reference, most)
                trials, kills, lost, same = trials + 1, kills + outcome[0], lost + outcome[1], same + outcome[2]
    return same == trials and not lost, f"{same} of {trials} runs the same bits; {kills} kills, {lost} files lost"


# R9, R10: damaged and malicious files


def _refused(read):
    try:
        read()
    except ValueError as error:
        return "is not a " in str(error) and "\n" not in str(error)
    except FileNotFoundError:
        return False
    return False


def damaged(full):
    generator, refused, tried = random.Random(2), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        result, checkpoint, bad = (Path(folder) / name for name in ("result.npz", "run.npz", "bad.npz"))
        pmapde.solve(smooth(16), checkpoint=pmapde.Checkpoint(checkpoint, 0)).save(result)
        for path, read in ((result, pmapde.load), (checkpoint, pmapde.resume)):
            content = path.read_bytes()
            variants = [content[:length] for length in range(0, len(content), 1024)] + [content[:-1], content + b"x"]
            for _ in range(1000 if full else 100):
                flipped = bytearray(content)
                flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
                variants.append(bytes(flipped))
            other = checkpoint if path == result else result
            for variant in [*variants, b"text", other.read_bytes()]:
                bad.write_bytes(variant)
                refused, tried = refused + _refused(lambda read=read: read(bad)), tried + 1
    return refused == tried, f"{refused} of {tried} refused"


def forged(path, members, compress=False):
    """A file with a valid checksum, made by somebody else: ``members`` are (name, content)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
            for name, content in members:
                file.writestr(name, content)
            file.comment = b"sha256 " + b"0" * 64
    path.write_bytes(buffer.getvalue())
    with open(path, "r+b") as file:
        digest = archive._digest(file)
        file.seek(-64, os.SEEK_END)
        file.write(digest)


def npy(values, shape=None):
    """An array as .npy, its header claiming another ``shape`` perhaps."""
    buffer, values = io.BytesIO(), np.asarray(values)
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.lib.format.dtype_to_descr(values.dtype),
                                                  "fortran_order": False, "shape": shape or values.shape})
    return buffer.getvalue() + values.tobytes()


class _Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


def malicious_files(folder):
    """Names of forged files in ``folder``, made from a whole checkpoint."""
    good, names = folder / "good.npz", []
    pmapde.solve(smooth(16), checkpoint=pmapde.Checkpoint(good, 0))
    with zipfile.ZipFile(good) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    header = json.loads(np.load(io.BytesIO(members[0][1])).tobytes())

    def with_header(change):
        changed = json.loads(json.dumps(header))
        change(changed)
        return [("header.npy", npy(np.frombuffer(json.dumps(changed).encode(), np.uint8))), *members[1:]]

    import pickle
    pickled = io.BytesIO()
    np.save(pickled, np.array([_Exploit()], dtype=object), allow_pickle=True)
    grid = header["problem"]["grid"]
    variants = {
        "object array": [*members[:-1], (members[-1][0], pickled.getvalue())],
        "raw pickle": [*members[:-1], (members[-1][0], pickle.dumps(_Exploit()))],
        "8 TB": [*members[:-1], (members[-1][0], npy(np.zeros(4), (10**12,)))],
        "16 EB": [*members[:-1], (members[-1][0], npy(np.zeros(4), (2**62,)))],
        "path": [*members, ("../../evil.npy", npy(np.zeros(4)))],
        "absolute": [*members, ("/tmp/evil.npy", npy(np.zeros(4)))],
        "twice": [*members, members[-1]],
        "no header": members[1:],
        "wrong shape": [*members[:-1], (members[-1][0], npy(np.zeros((3, 3))))],
        "text": [*members[:-1], (members[-1][0], npy(np.array(["a"])))],
        "deep": [("header.npy", npy(np.frombuffer(b"[" * 100000, np.uint8))), *members[1:]],
        "version": with_header(lambda h: h.update(format="pmapde checkpoint 99")),
        "kind": with_header(lambda h: h.update(kind="eval")),
        "class": with_header(lambda h: h["settings"]["dict"]["method"]["dict"].update({"class": "os.system"})),
        "huge grid": with_header(lambda h: h["problem"].update(grid={**grid, "shape": [10**6, 10**6]})),
        "no state": with_header(lambda h: h.pop("state")),
        "list state": with_header(lambda h: h.update(state=[1, 2])),
        "null": with_header(lambda h: h["problem"].update(floor=None)),
    }
    for name, contents in variants.items():
        names.append(folder / f"{name}.npz")
        forged(names[-1], contents)
    names.append(folder / "bomb.npz")
    forged(names[-1], [*members, ("bomb.npy", npy(np.zeros(2**24)))], compress=True)
    return names


def malicious(full):
    with tempfile.TemporaryDirectory() as folder:
        names, here = malicious_files(Path(folder)), os.getcwd()
        os.chdir(folder)
        try:
            tracemalloc.start()
            taken = [name.stem for name in names if not _refused(lambda name=name: pmapde.resume(name))]
            peak = tracemalloc.get_traced_memory()[1]
            exploited = Path("exploited").exists()
        finally:
            tracemalloc.stop()
            os.chdir(here)
    return not taken and not exploited and peak < 2e8, (
        f"{len(names) - len(taken)} of {len(names)} refused{' (not: ' + ', '.join(taken) + ')' if taken else ''}, "
        f"no code run, {peak / 1e6:.0f} MB at most")


# R11, bad and odd input


def bad_input(full):
    """One sentence that names the argument, or a finite answer; the input is never changed."""
    generator, wrong, tried = np.random.default_rng(3), [], 0
    good = 1 + generator.random((12, 10))

    def changed(value, where=(2, 3)):
        values = good.copy()
        values[where] = value
        return values
    strange = {
        "nan": changed(np.nan), "inf": changed(np.inf), "negative": changed(-1.0), "zero": 0 * good,
        "line": good[0], "4D": np.ones((4, 4, 4, 4)), "one cell": good[:1], "complex": good + 1j,
        "text": [["a", "b"]] * 2, "object": good.astype(object), "empty": np.ones((0, 4)),
        "zeros in part": changed(0.0, (slice(0, 4), slice(None))), "strided": np.repeat(good, 2, 1)[:, ::2],
        "read-only": good.copy(), "fortran": np.asfortranarray(good), "float32": good.astype(np.float32),
        "integers": (100 * good).astype(np.int16), "bytes": (100 * good).astype(">f8"),
        "subnormal": good * 1e-310, "huge": good * 1e300, "half huge": changed(1e300), "bool": good > 1.5,
    }
    strange["read-only"].flags.writeable = False
    for name, values in strange.items():
        for arguments in ((values, good), (good, values)):
            tried += 1
            before = np.array(values, copy=True)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    solution = pmapde.solve(pmapde.TransportProblem(*arguments), max_seconds=10)
                fine = not solution.success or bool(np.isfinite(solution.displacement).all())
            except (ValueError, TypeError) as error:
                fine = "`" in str(error) and "\n" not in str(error)
            fine = fine and (before.dtype.kind in "OU" or np.array_equal(before, values, equal_nan=True))
            wrong += [] if fine else [name]
    return not wrong, f"{tried - len(wrong)} of {tried} {' '.join(wrong)}"


# R12, memory; disk full

LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
import numpy as np, pmapde
from pmapde.cli import main
pmapde.solve(pmapde.TransportProblem(np.ones((16, 16)), 1 + np.random.default_rng(0).random((16, 16))))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
if sys.argv[1] == "AS":
    limit = used + int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
else:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(main(sys.argv[3:]))
"""


def _limited(kind, amount, *command):
    process = _child(kind, amount, *command, code=LIMITED)
    _, errors = process.communicate()
    return process.returncode, errors.strip()


def memory(full):
    """Too little address space, for the estimate or in the middle: one sentence and exit status 2, nothing written."""
    sizes = ((60, "1024"), (30, "256"), *(((16, "128"), (40, "512"), (100, "1024"), (400, "2048")) if full else ()))
    fine = 0
    with tempfile.TemporaryDirectory() as folder:
        for amount, size in sizes:
            code, errors = _limited("AS", amount, "solve", "mri", "grace_hopper", "--size", size, "--no-figures",
                                    "--out", Path(folder) / "out")
            told = errors.startswith("pmapde: error: ") and len(errors) > 20 and "\n" not in errors
            fine += code == 2 and told and not os.listdir(folder)
    return fine == len(sizes), f"{fine} of {len(sizes)} limits: one sentence, exit status 2, nothing left"


def disk_full(full):
    """A file size limit below the result's, below the checkpoint's, and below the next checkpoint's."""
    fine = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code, errors = _limited("FSIZE", 4096, "solve", "uniform", "ring", "--size", "32", "--no-figures", "--out",
                                folder / "out")
        fine.append(code == 2 and "\n" not in errors and not os.listdir(folder))
        code, errors = _limited("FSIZE", 4096, "solve", "uniform", "ring", "--size", "32", "--no-figures", "--out",
                                folder / "out", "--checkpoint", folder / "run.npz")
        fine.append(code == 2 and "cannot be written" in errors and not os.listdir(folder))
        # the first checkpoint fits, later ones and the result do not: the first one stays
        code, errors = _limited("FSIZE", 60000, "solve", "uniform", "ring", "--size", "48", "--no-figures", "--out",
                                folder / "out", "--checkpoint", folder / "run.npz", "--every", "0")
        fine.append(code == 2 and os.listdir(folder) == ["run.npz"] and pmapde.resume(folder / "run.npz").success)
    return all(fine), f"{sum(fine)} of {len(fine)}: one sentence, exit status 2, nothing half-written, last file whole"


# R13, signals


def interrupted(full):
    """Ctrl-C and SIGTERM at random moments of a command: exit status, no output, a checkpoint to go on from."""
    generator, fine, tried = random.Random(4), 0, 0
    code = "import sys; sys.path.insert(0, {root!r}); from pmapde.cli import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name) / "reference"
        command = ["flow", "two_moons", "ring", "--size", "96", "--tolerance", "1e-6", "--no-figures", "--ledger",
                   "densities"]
        _child(*command, "--out", reference, code=code).communicate()
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)) * (3 if full else 1):
            folder = Path(tempfile.mkdtemp(dir=name))
            checkpoint = folder / "run.npz"
            process = _child(*command, "--out", folder / "out", "--checkpoint", checkpoint, code=code)
            while process.poll() is None and not checkpoint.exists():
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.4))
            process.send_signal(number)
            errors = process.communicate()[1].strip()
            ended = process.returncode == status and "goes on" in errors and os.listdir(folder) == ["run.npz"]
            _child("resume", checkpoint, code=code).communicate()
            whole = os.listdir(folder) == ["out"] and same_results(folder / "out" / "trajectory.npz",
                                                                   reference / "trajectory.npz")
            fine, tried = fine + bool(ended and whole), tried + 1
    return fine == tried, f"{fine} of {tried}: 130 or 143, nothing half-written, resumed to the same bits"


# R14, R16: threads and forks

BITS = """
import sys, hashlib, warnings
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
warnings.simplefilter("ignore")
import bench_reliability
print(bench_reliability.bits(sys.argv[1] == "full"))
"""


def bits(full):
    """SHA-256 of what solve, flow, mirror descent and Sinkhorn find on grids that are large enough for threads."""
    import hashlib
    total = hashlib.sha256()
    n = 160
    problems = [rough("Gaussian, smooth", (n, n), 10)]
    problems += [rough("microscopy", (130, 130), 10), rough("white noise", (26, 26, 26), 10)] if full else []
    for problem in problems:
        solution = pmapde.solve(problem, pmapde.PseudoTransient(subdivision=1))
        total.update(solution.displacement.tobytes() + repr(solution.cost).encode())
    total.update(pmapde.flow(problems[0], 0.01, tolerance=1e-3).potentials.tobytes())
    total.update(pmapde.mirror_descent(problems[0], 0.01, 2, scheme="implicit").potential.tobytes())
    total.update(pmapde.sinkhorn(problems[0], 1e-3, 3).potential.tobytes())
    return total.hexdigest()


def thread_counts(full):
    found = {}
    for layer in ("omp", "workqueue") if full else ("omp",):
        for count in (1, 2, 4) if full else (1, 4):
            process = _child("full" if full else "quick", code=BITS, env={
                **os.environ, "NUMBA_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count),
                "OPENBLAS_NUM_THREADS": str(count), "NUMBA_THREADING_LAYER": layer})
            found[layer, count] = process.communicate()[0].strip() or f"failed with {process.returncode}"
    return len(set(found.values())) == 1 and len(next(iter(found.values()))) == 64, (
        f"{len(set(found.values()))} result(s) over {len(found)} settings of 1 to 4 threads on "
        f"{os.cpu_count()} cores")


FORKED = """
import sys, os
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
import bench_reliability as b, pmapde
solution = pmapde.solve(b.smooth(16))
calls = [lambda: pmapde.solve(b.smooth(16)), lambda: solution.map([[0.5, 0.5]]),
         lambda: pmapde.flow(b.smooth(16), 0.01), lambda: pmapde.sinkhorn(b.smooth(16), 0.01)]
for call in calls:
    child = os.fork()
    if not child:
        try:
            call()
            os._exit(0)
        except RuntimeError as error:
            os._exit(7 if "spawn" in str(error) else 8)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
"""


def forks_and_threads(full):
    """A forked child works or is told why not; four threads at once find what one does."""
    codes = _child(code=FORKED).communicate()[0].split()
    problems = [rough("Gaussian, smooth", (20, 20), 10, seed) for seed in range(4)]
    alone, together = [pmapde.solve(problem).displacement for problem in problems], [None] * 4

    def work(k):
        for _ in range(3):
            together[k] = pmapde.solve(problems[k]).displacement
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same = sum(np.array_equal(a, b) for a, b in zip(alone, together))
    return len(codes) == 4 and set(codes) <= {"0", "7"} and same == 4, (
        f"forked: {sum(code == '0' for code in codes)} of {len(codes)} work, {sum(code == '7' for code in codes)} "
        f"refused with the remedy; threads: {same} of 4 the same bits")


ROWS = {
    "R3": ("every stop has a named reason", every_status),
    "R5": ("symmetries, identity, mass", special_cases),
    "R7, R8": ("kill -9, then resume: the same bits; no checkpoint lost", killed),
    "R9": ("damaged files", damaged),
    "R10": ("malicious files", malicious),
    "R11": ("bad and odd input", bad_input),
    "R12": ("memory limits", memory),
    "R12, disk": ("file size limits", disk_full),
    "R13": ("Ctrl-C and SIGTERM", interrupted),
    "R14": ("number of threads", thread_counts),
    "R16": ("forked children, concurrent threads", forks_and_threads),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials: about a minute")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    options = parser.parse_args(arguments)
    rows = {name: ("cited", promise, f"see {where}") for name, (promise, where) in CITED.items() if not options.rows}
    for name in options.rows or ROWS:
        promise, measure = ROWS[name]
        begin = time.perf_counter()
        holds, found = measure(not options.quick)
        rows[name] = "holds" if holds else "FALLS SHORT", promise, found.strip()
        print(f"{name} {rows[name]} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    ordered = sorted(rows, key=lambda name: int(name.split(",")[0].removeprefix("R")))
    lines = [f"{name:10s} {rows[name][0]:12s} {rows[name][1]:56s} {rows[name][2]}" for name in ordered]
    command = " ".join(["python benchmarks/bench_reliability.py", *(sys.argv[1:] if arguments is None else arguments)])
    text = "\n".join([command, *machine(), "", *lines]) + "\n"
    print(text)
    if not options.rows:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "reliability.txt").write_text(text)
    return int(any(row[0] == "FALLS SHORT" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
