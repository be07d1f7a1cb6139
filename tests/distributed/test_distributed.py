"""The distributed engine: the serial answers on any number of ranks, flat counts, failures that end the job."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pmapde
from pmapde.distributed.layout import partition
from pmapde.monge_ampere import MongeAmpere

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LAUNCHER = shutil.which("mpiexec.openmpi") or shutil.which("mpiexec")
MISSING = ([name for name in ("petsc4py", "mpi4py") if importlib.util.find_spec(name) is None]
           + ([] if LAUNCHER else ["mpiexec"]))
needs_petsc = pytest.mark.skipif(bool(MISSING) and not os.environ.get("PMAPDE_REQUIRE_PETSC"),
                                 reason=f"not installed: {', '.join(MISSING)} (`make test-distributed`)")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
               "PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def launch(ranks, *arguments, timeout=300):
    return subprocess.run([LAUNCHER, "-n", str(ranks), sys.executable, *map(str, arguments)], env=ENVIRONMENT, cwd=ROOT,
                          capture_output=True, text=True, timeout=timeout)


def findings(ranks, name, folder):
    done = launch(ranks, HERE / "job.py", name, folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "notes.json").read_text())


def job():
    specification = importlib.util.spec_from_file_location("job", HERE / "job.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def serial():
    module = job()
    return {name: pmapde.solve(problem, module.PLAIN, tolerance=module.TIGHT)
            for name, problem in module.problems().items()}


@pytest.fixture(scope="module")
def on_one_rank(tmp_path_factory):
    return findings(1, "answers", tmp_path_factory.mktemp("one"))


@needs_petsc
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_answers_are_the_serial_ones_on_any_number_of_ranks(ranks, serial, on_one_rank, tmp_path):
    notes = findings(ranks, "answers", tmp_path)
    with np.load(tmp_path / "potentials.npz") as potentials:
        assert {name.split(", ")[0] for name in notes} == set(serial)
        for name, note in notes.items():
            reference = serial[name.split(", ")[0]]
            q = reference.problem.quadratic(reference.problem.grid.cell_centres())
            phi, expected = (u - q - (u - q).mean() for u in (potentials[name], reference.potential))
            assert note["status"] == "CONVERGED"
            assert np.abs(phi - expected).max() <= 1e-9 * np.abs(expected).max(), name
            assert note["cost"] == pytest.approx(reference.cost, rel=1e-9), name
            assert note["drift"] == pytest.approx(reference.drift, rel=1e-9, abs=1e-12), name
            assert abs(note["newton"] - on_one_rank[name]["newton"]) <= 2, name  # flat in the ranks
            assert max(note["applications"]) <= max(on_one_rank[name]["applications"]) + 3, name


@needs_petsc
def test_iterations_do_not_grow_with_the_grid(tmp_path):
    notes = findings(2, "growth", tmp_path)
    assert {status for _, _, status, _ in notes} == {"CONVERGED"}
    for coarse, fine in ((0, 2), (1, 3), (4, 6), (5, 7)):
        (*kind, _, (krylov, newton)), (*other, _, (more_krylov, more_newton)) = notes[coarse], notes[fine]
        assert kind == other
        assert newton == more_newton == 1
        assert 1 <= more_krylov <= krylov + 2 <= 14
    for *_, iterations in notes[8:]:  # the extrapolated start is good enough
        assert iterations == [0, 0]


@needs_petsc
def test_a_killed_rank_ends_the_job_and_leaves_a_checkpoint_to_go_on_from(tmp_path):
    done = launch(2, HERE / "job.py", "killed", tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "notes.json").exists()
    problem = job().steady_problem()
    assert np.load(tmp_path / "saved.npy").shape == problem.grid.shape
    cells = findings(3, "resumed", tmp_path)
    assert set(cells) == {problem.grid.size}  # no coarser grid again
    reference = pmapde.solve(problem, job().PLAIN, tolerance=job().TIGHT)
    solution = pmapde.load(tmp_path / "resumed.npz")
    assert solution.success
    assert solution.cost == pytest.approx(reference.cost, rel=1e-9)
    assert np.abs(solution.potential - reference.potential).max() <= 1e-9


@needs_petsc
def test_sources_that_no_rank_holds(tmp_path):
    x = (np.arange(80) + 0.5) / 80
    y = (np.arange(36) + 0.5) / 36
    np.save(tmp_path / "source.npy", 1 + np.outer(x, y))
    notes = findings(3, "sampled", tmp_path)
    grid = pmapde.Grid((40, 36))
    source = pmapde.LogDensity(lambda x: -2 * ((x - 0.4) ** 2).sum(axis=1))
    target = pmapde.LogDensity(lambda y: -((y - 0.7) ** 2).sum(axis=1), lambda y: -2 * (y - 0.7))
    averages = pmapde.GridDensity(1 + np.outer((np.arange(40) + 0.5) / 40, y), grid)
    for k, density in enumerate((source, averages)):
        reference = pmapde.solve(pmapde.TransportProblem(density, target, grid=grid if k == 0 else None,
                                                         target_grid=grid), job().for_sampled(grid), tolerance=1e-11)
        status, cost, residual = notes[k]
        assert (status, residual <= 1e-11) == ("CONVERGED", True)
        assert cost == pytest.approx(reference.cost, rel=1e-9)
        phi = np.load(tmp_path / f"phi{k}.npy")
        expected = reference.displacement_potential
        assert np.ptp(phi - expected) <= 1e-9 * np.ptp(expected)


def cost_of_the_map(solution):
    """That of grad u, no fold straightened: what ranks that hold a part of the potential have."""
    operator = MongeAmpere(solution.problem, solution.scheme)
    return operator.cost(operator.displacement(solution.displacement_potential))


@needs_petsc
@pytest.mark.parametrize("ranks", [1, 4])
def test_targets_that_no_rank_holds(ranks, tmp_path):
    notes = findings(ranks, "sliced", tmp_path)
    for name, (source, target, grid, target_grid) in job().sliced_problems().items():
        densities = [pmapde.GridDensity(values, where) for values, where in ((source, grid), (target, target_grid))]
        reference = pmapde.solve(pmapde.TransportProblem(*densities), job().for_sampled(densities[0].grid),
                                 tolerance=job().TIGHT)
        status, cost, kept, (rough, roughness), (misplaced, expected) = notes[name]
        assert misplaced == pytest.approx(expected, rel=1e-6, abs=1e-12), name
        assert status == "CONVERGED"
        assert rough == (name in ("rough", "seam"))
        assert roughness == pytest.approx(densities[1].roughness, rel=1e-12)
        assert cost == pytest.approx(cost_of_the_map(reference), rel=1e-9)
        expected = reference.displacement_potential
        assert np.ptp(np.load(tmp_path / f"phi {name}.npy") - expected) <= 1e-9 * np.ptp(expected), name
    assert notes["large"][2] < 1.5  # copies of the target in all windows together
    for told in notes["refused"]:
        for text, words in zip(told, ("positive and finite", "complex128", "scale them first", "two or three axes",
                                      "positive and finite")):
            assert words in text
    assert max(notes["round at_images"], notes["round over_images"]) < 1e-12


@needs_petsc
def test_a_checkpoint_that_cannot_be_written_is_an_error_on_all_ranks(tmp_path):
    told, least, names = findings(3, "full_disk", tmp_path)
    for one in told:
        assert "the disk may be full" in one[0]
        assert "it is a folder" in one[1]
        assert "does not exist" in one[2]
    assert least == 1.0  # the last one, whole
    assert names == ["kept.npy"]


@needs_petsc
@pytest.mark.parametrize("ranks", [1, 3])
def test_misplaced_mass_is_seen_without_the_whole_map(ranks, tmp_path):
    statuses = []
    for problem, (status, misplaced) in zip(job().misplacing_problems(), findings(ranks, "misplaced", tmp_path)):
        reference = pmapde.solve(problem, job().PLAIN)
        assert status == reference.status.name
        assert misplaced == pytest.approx(reference.push_forward_error, rel=0.05, abs=1e-5)
        statuses.append(status)
    assert statuses == ["MASS_MISPLACED", "CONVERGED"]


@needs_petsc
@pytest.mark.parametrize("ranks", [1, 3])
def test_misplaced_mass_is_corrected_across_ranks(ranks, tmp_path):
    notes, (status, misplaced, ended) = findings(ranks, "corrected", tmp_path)
    for problem, note in zip(job().correctable_problems(), notes):
        reference = pmapde.solve(problem, tolerance=job().TIGHT)
        expected = reference.stats["misplaced"][0]["by round"]
        assert note["status"] == reference.status.name == "CONVERGED"
        assert note["rounds"][:2] == pytest.approx(expected[:2], rel=0.005)  # the serial ones are solved less well
        assert min(note["rounds"]) < 0.75 * note["rounds"][0]
        assert note["misplaced"] == min(note["rounds"])
        # folds that rounding turns over or not make the third's rounds differ
        assert note["cost"] == pytest.approx([reference.cost, cost_of_the_map(reference)],
                                             rel=1e-4 if note["straightened"] else 1e-9)
    assert [note["part"] for note in notes] == ["CONVERGED", "CONVERGED", "FOLDED"]
    assert notes[2]["folded"] == pytest.approx(notes[2]["straightened"], rel=1e-12)
    assert all(note["folded"] == 0 for note in notes[:2])
    # time is up while the first is corrected: the solution at hand will do
    assert (status, ended) == ("CONVERGED", 1)
    assert misplaced == pytest.approx(notes[0]["rounds"][0], rel=0.01)  # it is solved to the default tolerance


@needs_petsc
def test_all_ranks_stop_together_with_the_reason(tmp_path):
    assert findings(2, "stopped", tmp_path) == ["MAX_STEPS", "MAX_SECONDS", "STOPPED"]


@needs_petsc
def test_what_cannot_be_run_is_refused_in_one_sentence_on_all_ranks(tmp_path):
    told = findings(4, "refused", tmp_path)
    for name, words in {"ranks": "cannot be cut into 4 boxes", "zeros": "`source` is zero in 56 of 64 cells",
                        "problem": "got int", "method": "PseudoTransient", "linear": "PetscMultigrid",
                        "start": "(5, 5)", "preconditioner": "'ilu'", "file": "not a complete checkpoint",
                        "throw": "MAX_SECONDS", "sampled": "positive and finite, it is not at cell (0, 0)"}.items():
        assert words in told[name], told[name]
        assert "\n" not in told[name]


@needs_petsc
def test_a_failure_on_one_rank_ends_all(tmp_path):
    done = launch(3, HERE / "job.py", "broken", tmp_path, timeout=60)
    assert done.returncode != 0
    assert "rank 2: FloatingPointError: a user's function failed" in done.stderr
    assert not (tmp_path / "notes.json").exists()


@needs_petsc
def test_command_line_on_ranks(tmp_path):
    command = ["-m", "pmapde", "solve", "two_moons", "ring", "--size", "48x40", "--floor", "0.2", "--no-figures"]
    done = launch(4, *command, "--engine", "petsc", "--out", tmp_path / "out", "--petsc-checkpoint", tmp_path / "c.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("CONVERGED") == 1  # one rank speaks
    solution = pmapde.load(tmp_path / "out" / "solution.npz")
    assert solution.success
    assert solution.stats["ranks"] == 4
    assert np.load(tmp_path / "c.npy").shape == (48, 40)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "CONVERGED"
    done = launch(2, *command, "--engine", "petsc", "--extrapolate", "map", "--out", tmp_path / "other")
    assert done.returncode == 2
    assert done.stderr.count("pmapde: error: --extrapolate is for the serial engine") == 1
    assert not (tmp_path / "other").exists()


@needs_petsc
def test_a_launcher_of_another_mpi_is_found_out(tmp_path):
    # what such a launcher does: it starts processes that do not find each other
    copies = [subprocess.Popen([sys.executable, "-m", "pmapde", "solve", "ring", "ball", "--engine", "petsc", "--out",
                                str(tmp_path / "out")], env={**ENVIRONMENT, "PMI_SIZE": "2", "PMI_RANK": str(rank)},
                               cwd=ROOT, stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [copy.communicate(timeout=60)[1] for copy in copies]
    assert copies[0].returncode == 2
    assert errors[0].count("mpiexec started 2 processes but MPI sees 1") == 1
    assert errors[1] == ""
    assert not (tmp_path / "out").exists()


def test_without_petsc_the_command_says_what_to_install(tmp_path):
    code = ("import sys; sys.modules['petsc4py'] = None; from pmapde.cli import main; "
            f"sys.exit(main(['solve', 'ring', 'ring', '--engine', 'petsc', '--out', {str(tmp_path / 'out')!r}]))")
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs petsc4py and mpi4py" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("shape", "ranks", "parts"), [
    ((64, 64), 1, (1, 1)), ((64, 64), 4, (2, 2)), ((64, 64), 3, (3, 1)), ((128, 16), 4, (4, 1)),
    ((16, 128), 2, (1, 2)), ((32, 32, 32), 8, (2, 2, 2)), ((9, 4), 8, (4, 2)), ((3, 3), 4, None), ((4, 4), 5, None)])
def test_boxes_have_little_surface_and_two_cells_an_axis(shape, ranks, parts):
    assert partition(shape, ranks) == parts
