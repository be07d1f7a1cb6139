"""R11, R12: bad and odd input, too little memory, a full disk."""
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

import pmapde

from .setting import child


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
import resource
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
    process = child(kind, amount, *command, code=LIMITED)
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
