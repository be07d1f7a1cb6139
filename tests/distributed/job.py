"""What the tests of the distributed engine run under mpiexec: ``job.py NAME FOLDER``; rank 0 writes the findings."""
import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import pmapde
from pmapde import distributed, exact, gallery
from pmapde.distributed import engine, nested
from pmapde.distributed import result as result_module
from pmapde.distributed.linear import PetscMultigrid

PLAIN, TIGHT = pmapde.PseudoTransient(conserve=False), 1e-11


def for_sampled(grid):
    """What a :class:`SampledProblem` on ``grid`` is solved with: whether it is smooth is not known."""
    return replace(PLAIN, scheme="monotone" if grid.ndim == 2 else None)


def problems():
    """No-flux, periodic and mixed, 2D and 3D, sizes that no rank count divides, all kinds of targets, scaled boxes."""
    rng = np.random.default_rng(3)
    pictures = [gallery.load(name, (64, 64)) for name in ("mri", "grace_hopper")]
    boxes = [pmapde.Grid(shape, box, (True, False)) for shape, box in (((33, 42), [(0, 2), (0, 1)]),
                                                                      ((20, 24), [(0, 2), (1, 4)]))]
    return {
        "box": exact.manufactured((48, 41)).problem,
        "torus": exact.manufactured((40, 34), periodic=True, array_target=True).problem,
        "rough": pmapde.TransportProblem(*pictures, floor=0.3),
        "mixed": pmapde.TransportProblem(1 + rng.random((33, 42)), 1 + 0.2 * rng.random((20, 24)), grid=boxes[0],
                                         target_grid=boxes[1]),
        "3D box": exact.manufactured((20, 17, 18), array_target=True).problem,
        "3D torus": exact.manufactured((16, 17, 18), periodic=True).problem,
    }


def small_grids_too():
    """Cut grids that would be left to rank 0: the tests are to see several cut grids."""
    nested.SERIAL_CELLS = {2: 20 * 16, 3: 500}


def counts(history):
    """Krylov iterations and Newton steps per level."""
    levels = sorted({int(step.level) for step in history})
    return [[sum(getattr(step, name) for step in history if step.level == level) for level in levels]
            for name in ("applications", "newton_iterations")]


def answers(comm, folder):
    small_grids_too()
    found, notes = {}, {}
    for name, problem in problems().items():
        for linear in (None, "gamg") if name in ("box", "3D torus") else (None,):
            solution = distributed.solve(problem, PLAIN, tolerance=TIGHT, linear=PetscMultigrid(linear))
            if comm.rank == 0:
                key = f"{name}, {linear}" if linear else name
                found[key] = solution.potential
                notes[key] = {"status": solution.status.name, "cost": solution.cost, "drift": solution.drift,
                              "newton": int(solution.history["newton_iterations"].sum()),
                              "applications": [int(n) for n in solution.history["applications"]]}
    if comm.rank == 0:
        np.savez(folder / "potentials.npz", **found)
    return notes


def growth(comm, folder):
    """Iterations on finer and finer grids, at the default tolerance."""
    notes = []
    for shape in ((64,) * 2, (128,) * 2, (24,) * 3, (48,) * 3, (256,) * 2):
        problem = exact.manufactured(shape, array_target=True).problem
        for linear in (None, "gamg"):
            result = distributed.solve(problem, gather=False, linear=PetscMultigrid(linear))
            notes.append([len(shape), linear, result.status.name, [int(n[-1]) for n in counts(result.history)]])
    return notes


def misplaced(comm, folder):
    """Status and misplaced mass of results that no rank holds whole."""
    small_grids_too()
    found = []
    for problem in misplacing_problems():
        result = distributed.solve(problem, PLAIN, gather=False)
        found.append([result.status.name, result.push_forward_error])
    return found


def corrected(comm, folder):
    """Sources corrected by what the maps of all ranks misplace, with the whole map in the end and without; and a run
    that is cut short by a limit meanwhile."""
    small_grids_too()
    found = []
    for problem in correctable_problems():
        solution = distributed.solve(problem, tolerance=TIGHT)
        part = distributed.solve(problem, tolerance=TIGHT, gather=False)
        if comm.rank == 0:
            found.append({"status": solution.status.name, "rounds": solution.stats["misplaced"][0]["by round"],
                          "straightened": solution.straightened_mass, "part": part.status.name,
                          "folded": part.folded_mass, "misplaced": part.push_forward_error,
                          "cost": [solution.cost, part.cost]})
    seen = []

    def callback(step):
        seen.append(step)
        return False

    class Clock:  # time is up as soon as there is a solution that would do
        @staticmethod
        def perf_counter():
            return 1e9 if seen and seen[-1].good is not None else 0.0

    engine.time = Clock
    part = distributed.solve(correctable_problems()[0], callback=callback, max_seconds=1.0, gather=False)
    return found, [part.status.name, part.push_forward_error, sum(step.status is not None for step in seen)]


def correctable_problems():
    """Rough ones, 2D and 3D, whose maps misplace more than one per cent before they are corrected; the last folds."""
    def rough(seed, contrast, blocks, cells):
        rng = np.random.default_rng(seed)
        return pmapde.TransportProblem(*[np.kron(np.exp(rng.uniform(-contrast, 0, (blocks,) * len(cells))),
                                                 np.ones(cells)) for _ in range(2)])
    return [rough(0, 2, 24, (2, 2)), rough(0, 3, 12, (2, 2, 2)), rough(0, 4, 16, (2, 2))]


def misplacing_problems():
    """A rough one whose map is not good enough, and one on a torus whose map is."""
    rng = np.random.default_rng(0)
    rough = [np.kron(np.exp(rng.uniform(-4, 0, (16, 16))), np.ones((2, 2))) for _ in range(2)]
    return [pmapde.TransportProblem(*rough), exact.manufactured((40, 34), periodic=True, array_target=True).problem]


def steady_problem():
    return exact.manufactured((96, 80), array_target=True).problem


def killed(comm, folder):
    """Rank 1 dies after the first step of the finest grid."""
    small_grids_too()

    def callback(step):
        if step.level == step.levels - 1 and step.newton_iterations and comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    distributed.solve(steady_problem(), PLAIN, tolerance=TIGHT, callback=callback, checkpoint=folder / "saved.npy",
                      checkpoint_every="step")
    return "nobody died"


def resumed(comm, folder):
    small_grids_too()
    solution = distributed.solve(steady_problem(), PLAIN, tolerance=TIGHT, start=folder / "saved.npy")
    if comm.rank == 0:
        solution.save(folder / "resumed.npz")
        return [int(n) for n in solution.history["cells"]]
    return None


def sampled(comm, folder):
    """Sources that no rank holds whole: a function and a file that is read in slices; parallel output."""
    small_grids_too()
    grid = pmapde.Grid((40, 36))
    source = pmapde.LogDensity(lambda x: -2 * ((x - 0.4) ** 2).sum(axis=1))
    target = pmapde.LogDensity(lambda y: -((y - 0.7) ** 2).sum(axis=1), lambda y: -2 * (y - 0.7))
    values = np.load(folder / "source.npy", mmap_mode="r")
    notes = []
    for density in (source, values):
        problem = distributed.SampledProblem(density, target, grid=grid, target_grid=grid)
        result = distributed.solve(problem, tolerance=TIGHT)
        result.write(folder / f"phi{len(notes)}.npy")
        notes.append([result.status.name, result.cost, result.residual])
    return notes


def sliced_problems():
    """Smooth and rough, no-flux and periodic, 2D and 3D: source and target as arrays, on their grids."""
    def waves(shape, amplitude, shift=0.0, periodic=True):
        value = np.ones(shape)
        for axis, n in enumerate(shape):
            x = (np.arange(n) + 0.5) / n + shift
            wave = np.cos((2 if periodic else 1) * np.pi * x)
            value = value * (1 + amplitude * wave).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return value
    rng = np.random.default_rng(8)
    mixed = [pmapde.Grid(shape, box, (True, False)) for shape, box in (((48, 40), [(0, 2), (1, 2)]),
                                                                      ((60, 70), [(0, 2), (0, 3)]))]
    torus = [pmapde.Grid(shape, periodic=True) for shape in ((16, 18, 20), (24, 22, 20))]
    return {"smooth": (waves((64, 60), 0.3, periodic=False), waves((80, 90), -0.4, periodic=False), None, None),
            "rough": (np.ones((64, 60)), np.exp(rng.uniform(-1, 0, (64, 60))), None, None),
            "mixed": (waves((48, 40), 0.2, 0.1), waves((60, 70), 0.2, 0.35), *mixed),
            "3D": (waves((16, 18, 20), 0.3, 0.2), waves((24, 22, 20), 0.2, 0.45), *torus),
            "seam": (waves((48, 40), 0.2, 0.1), np.exp(np.add.outer(np.linspace(0, 2, 60), np.zeros(70))), *mixed),
            "large": (waves((80, 90), 0.1, periodic=False), waves((320, 330), -0.1, periodic=False), None, None)}


def sliced(comm, folder):
    """Targets that no rank holds whole, read in slices from files."""
    small_grids_too()
    notes = {}
    for name, (source, target, grid, target_grid) in sliced_problems().items():
        if comm.rank == 0:
            np.save(folder / f"{name}.npy", target)
        comm.Barrier()
        density = distributed.SlicedDensity(np.load(folder / f"{name}.npy", mmap_mode="r"), target_grid)
        problem = distributed.SampledProblem(source, density, grid=grid or pmapde.Grid(source.shape))
        result = distributed.solve(problem, PLAIN, tolerance=TIGHT)
        result.write(folder / f"phi {name}.npy")
        kept = [math.prod(box.shape) for _, box, _ in density._windows.values()]
        whole = pmapde.TransportProblem(pmapde.GridDensity(source, grid), pmapde.GridDensity(target, target_grid))
        masses = [part.push_forward_error for part in (result, distributed.solve(whole, for_sampled(whole.grid),
                                                                                 tolerance=TIGHT, gather=False))]
        notes[name] = [result.status.name, result.cost, comm.allreduce(max(kept)) / target.size,
                       [density.is_rough(), density.roughness], masses]
    told = []
    for values in (np.zeros((8, 8)), np.ones((8, 8)) * 1j, np.full((8, 8), 1e307), np.ones((4, 4, 4, 4)),
                   np.full((8, 8), np.nan if comm.rank == comm.size - 1 else 1.0)):
        try:
            distributed.SlicedDensity(values)
            told.append(None)
        except (TypeError, ValueError) as error:
            told.append(str(error))
    notes["refused"] = comm.allgather(told)
    # images that go round the torus: a window is never more than a period
    torus = pmapde.Grid((24, 24), periodic=True)
    density = distributed.SlicedDensity(2 + np.random.default_rng(0).random((24, 24)), torus)
    phi = np.pad(np.random.default_rng(1).standard_normal((12, 12)), 1, mode="wrap")
    scale = np.full(2, 12.0)
    arguments = (phi, np.zeros(2), np.full(2, 1 / 12), scale, True)
    for name, more in (("at_images", ()), ("over_images", (np.empty((2, 12, 12)),))):
        found = []
        for one in (density, pmapde.GridDensity(density.values, torus).normalised()):
            out = [np.empty((12, 12)), np.empty((2, 12, 12)), *(np.empty_like(part) for part in more)]
            getattr(one, name)(*arguments, *out)
            found.append(np.concatenate([part.ravel() for part in out]))
        notes[f"round {name}"] = float(np.abs(found[0] - found[1]).max() / np.abs(found[1]).max())
    return notes


def full_disk(comm, folder):
    """A checkpoint that cannot be written whole: an error on all ranks, the last one stays; and paths that are none."""
    import resource
    layout = distributed.layout.Layout(pmapde.Grid((64, 60)), comm)
    field = np.full(layout.shape, 1.0 + comm.rank)
    result_module.write_field(folder / "kept.npy", layout, field)
    if comm.rank == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    told = []
    for path in (folder / "kept.npy", folder, folder / "none" / "c.npy"):
        try:
            result_module.write_field(path, layout, 2 * field)
            told.append(None)
        except OSError as error:
            told.append(str(error))
    if comm.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    return comm.allgather(told), float(np.load(folder / "kept.npy").min()), sorted(p.name for p in folder.iterdir())


def stopped(comm, folder):
    """Limits and callbacks end all ranks at the same step, with the status of the serial engine."""
    small_grids_too()
    found, problem = [], steady_problem()
    for arguments in ({"max_steps": 1, "tolerance": TIGHT}, {"max_seconds": 0.0},
                      {"callback": lambda step: comm.rank == comm.size - 1}):
        solution = distributed.solve(problem, PLAIN, **arguments)
        found.append(solution.status.name if solution else None)
    return found


def refused(comm, folder):
    """Inputs that cannot be run: one sentence each, on every rank, and the job goes on."""
    tiny = pmapde.TransportProblem(np.ones((3, 3)), np.ones((3, 3)))
    zeros = pmapde.TransportProblem(np.eye(8), np.ones((8, 8)), floor=0.0)
    negative = distributed.SampledProblem(-np.ones((8, 8)), np.ones((8, 8)), grid=pmapde.Grid((8, 8)))
    fine = steady_problem()
    cases = {"ranks": lambda: distributed.solve(tiny), "zeros": lambda: distributed.solve(zeros),
             "problem": lambda: distributed.solve(1), "method": lambda: distributed.solve(fine, pmapde.TRBDF2()),
             "linear": lambda: distributed.solve(fine, linear="gamg"),
             "preconditioner": lambda: PetscMultigrid("ilu"),
             "start": lambda: distributed.solve(fine, start=np.zeros((5, 5))),
             "file": lambda: distributed.solve(fine, start=__file__),
             "throw": lambda: distributed.solve(fine, throw=True, max_seconds=0.0),
             "sampled": lambda: negative.values(distributed.layout.Layout(negative.grid, comm))}
    told = {}
    for name, case in cases.items():
        try:
            case()
            told[name] = None
        except (ValueError, TypeError, pmapde.SolverError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    everywhere = comm.allgather(told)
    assert all(list(other) == list(told) and None not in other.values() for other in everywhere), everywhere
    return told


def broken(comm, folder):
    """A density that fails on the last rank only."""
    def function(y):
        if comm.rank == comm.size - 1 and broken.armed:
            raise FloatingPointError("a user's function failed")
        return -((y - 0.5) ** 2).sum(axis=1)

    broken.armed = False
    problem = pmapde.TransportProblem(np.ones((32, 32)), pmapde.LogDensity(function))
    broken.armed = True
    distributed.solve(problem)
    return "nobody failed"


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    ranks = distributed.communicator()
    notes = globals()[name](ranks, folder)
    if ranks.rank == 0:
        (folder / "notes.json").write_text(json.dumps(notes))
