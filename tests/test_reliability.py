"""Runs that are killed, interrupted, starved or fed with nonsense: the reliability table, small."""
import json
import os

import numpy as np
import pytest
from bench_reliability import ROWS
from random_fields import pair
from reliability import endings, statuses
from reliability.setting import rough, smooth

import pmapde
from pmapde import archive, gallery, schedules
from pmapde.status import Status

pytestmark = pytest.mark.filterwarnings("ignore::pmapde.StencilWarning")


@pytest.fixture
def problem():
    return rough("microscopy", (16, 16), 1e3, 1)


class Stop(BaseException):
    """What no solver may catch, like Ctrl-C."""


def resumed(call, path, every_steps):
    """The result of a run that is interrupted again and again, and how often it was."""
    interruptions = 0
    while True:
        calls = 0

        def stop(*_):
            nonlocal calls
            calls += 1
            if calls == every_steps:
                raise Stop
        try:
            return call(callback=stop, checkpoint=pmapde.Checkpoint(path, 1e9)), interruptions
        except Stop:
            interruptions += 1


METHODS = [
    lambda p, **k: pmapde.solve(p, **k),
    lambda p, **k: pmapde.solve(p, pmapde.PseudoTransient(linear=pmapde.AlgebraicMultigrid()), tolerance=1e-9, **k),
    lambda p, **k: pmapde.solve(p, extrapolate="map", start=np.zeros(p.grid.shape) + p.quadratic(
        p.grid.cell_centres()), **k),
    lambda p, **k: pmapde.flow(p, [1e-4, 0.1], tolerance=1e-2, ledger="full", **k),
    lambda p, **k: pmapde.flow(p, 0.1, pmapde.TRBDF2(linear=pmapde.AlgebraicMultigrid()), tolerance=1e-2, **k),
    lambda p, **k: pmapde.mirror_descent(p, schedules.constant(40.0, True), 9, on_convexity_loss="shorten", **k),
    lambda p, **k: pmapde.mirror_descent(p, 1e-3, 9, scheme="implicit", ledger="full", comparator=1 + p.source_values,
                                         **k),
    lambda p, **k: pmapde.mirror_descent(p, 1e-4, 9, scheme="dual", on_convexity_loss="shorten", **k)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS, ids=["solve", "algebraic", "start", "flow", "tr-bdf2", "explicit",
                                                 "implicit", "dual"])
def test_an_interrupted_run_ends_with_the_same_bits(method, problem, tmp_path):
    whole = method(problem)
    again, interruptions = resumed(lambda **k: method(problem, **k), tmp_path / "run.npz", 3)
    assert interruptions >= 2
    whole.save(tmp_path / "whole")
    again.save(tmp_path / "again")
    assert endings.same_results(tmp_path / "whole.npz", tmp_path / "again.npz")


@pytest.mark.parametrize("row", ["R5", "R9", "R10", "R11", "R12", "R16", "R18"])
def test_row_of_the_table(row):
    holds, found = ROWS[row][1](False)
    assert holds, found


@pytest.mark.slow
@pytest.mark.parametrize("row", ["R7, R8", "R12, disk", "R13", "R14"])
def test_row_of_the_table_that_takes_long(row):
    holds, found = ROWS[row][1](False)
    assert holds, found


def test_a_killed_solve_ends_with_the_same_bits():
    holds, found = endings.killed(False, ["solve"], 1)
    assert holds, found


def test_every_status_has_a_way_to_it():
    assert set(statuses.statuses()) == set(Status)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)
def test_every_status_is_reached(status):
    assert statuses.statuses()[status]().status is status


def test_another_run_is_refused_and_told_why(problem, tmp_path):
    place = pmapde.Checkpoint(tmp_path / "run.npz", note={"who": "me"})
    first = pmapde.solve(problem, checkpoint=place, max_steps=1)
    assert first.status is Status.MAX_STEPS
    with pytest.raises(ValueError, match=r"another run \(the problem differs\)"):
        pmapde.solve(problem.swapped(), checkpoint=place)
    with pytest.raises(ValueError, match=r"another run \(`tolerance`, `extrapolate` differ\)"):
        pmapde.solve(problem, tolerance=1e-3, extrapolate="cost", checkpoint=place)
    with pytest.raises(ValueError, match=r"another run \(the kind of run"):
        pmapde.flow(problem, 0.1, checkpoint=place)
    assert pmapde.solve(problem, checkpoint=place).success  # a limit is no setting
    with pytest.raises(TypeError, match="`checkpoint` must be a pmapde.Checkpoint"):
        pmapde.solve(problem, checkpoint="run.npz")
    with pytest.raises(ValueError, match="`every` must be"):
        pmapde.Checkpoint("run.npz", -1)
    with pytest.raises(OSError, match="cannot be written"):
        pmapde.solve(problem, checkpoint=pmapde.Checkpoint(tmp_path / "nowhere" / "run.npz"))


def test_functions_have_to_be_given_again_and_the_same(tmp_path):
    path, grid = tmp_path / "run.npz", pmapde.Grid((16, 16))

    def posed(curvature):
        target = pmapde.LogDensity(lambda x: -curvature * (x**2).sum(axis=1), lambda x: -2 * curvature * x)
        return pmapde.TransportProblem(gallery.load("two_moons", (16, 16)), target, grid=grid, floor=0.1)
    whole = pmapde.mirror_descent(posed(1.0), schedules.geometric(1e-3, 1.5), 6, scheme="implicit")
    pmapde.mirror_descent(posed(1.0), schedules.geometric(1e-3, 1.5), 6, scheme="implicit",
                          callback=lambda k, phi: k == 2, checkpoint=pmapde.Checkpoint(path, 0))
    with pytest.raises(ValueError, match="pass the same `problem` and `schedule` again"):
        pmapde.resume(path)
    with pytest.raises(ValueError, match="the problem differs"):
        pmapde.resume(path, problem=posed(1.1), schedule=schedules.geometric(1e-3, 1.5))
    with pytest.raises(ValueError, match="`schedule` must be the one of the interrupted run"):
        pmapde.resume(path, problem=posed(1.0), schedule=schedules.geometric(1e-3, 1.6))
    again = pmapde.resume(path, problem=posed(1.0), schedule=schedules.geometric(1e-3, 1.5))
    assert np.array_equal(again.potential, whole.potential) and again.success
    with pytest.raises(FileNotFoundError):
        pmapde.resume(tmp_path / "nothing.npz")


def test_a_full_disk_is_warned_about_and_the_old_checkpoint_stays(problem, tmp_path, monkeypatch):
    path, calls, write = tmp_path / "run.npz", [], archive.write

    def full(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        write(*arguments)
    monkeypatch.setattr(archive, "write", full)
    with pytest.warns(RuntimeWarning, match="could not be written .No space left on device.: the one before stays"):
        solution = pmapde.solve(problem, checkpoint=pmapde.Checkpoint(path, 0))
    assert solution.success and len(calls) > 3 and os.listdir(tmp_path) == ["run.npz"]
    monkeypatch.undo()
    assert np.array_equal(pmapde.resume(path).displacement, solution.displacement)


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".run.npz.999999999-ab_c.part").touch()  # no process has this number
    kept = [f".run.npz.{os.getpid()}-abc.part", ".other.npz.999999999-abc.part", ".run.npz.part"]
    for name in kept:
        (tmp_path / name).touch()
    archive.remove_abandoned(tmp_path / "run.npz")
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_states_survive_as_they_are(tmp_path):
    field, arrays = np.arange(6.0).reshape(2, 3), {}
    tree = {"a": [1, None, True, "text", float("inf")], "array": {"b": field, "same": field}, "c": (np.float64(0.1),)}
    packed = json.loads(json.dumps(archive.flattened(tree, arrays)))
    found = archive.unflattened(packed, arrays)
    assert found["a"] == tree["a"] and found["c"] == [0.1] and list(arrays.values()) == [field]
    assert found["array"]["b"] is found["array"]["same"]


def test_a_loaded_descent_is_the_saved_one(tmp_path):
    run = pmapde.mirror_descent(smooth(16), 0.01, 3, scheme="implicit", ledger="full")
    run.save(tmp_path / "run")
    again = pmapde.load(tmp_path / "run.npz")
    assert str(again) == str(run) and again.stats["work"] == run.stats["work"]
    assert np.array_equal(again.potential, run.potential) and np.array_equal(again.density(), run.density())
    for name, column in run.ledger.columns.items():
        assert np.array_equal(again.ledger[name], column, equal_nan=True)


def test_a_rebuilt_problem_is_the_same_to_the_last_bit(tmp_path):
    source, target = pair("log-Gaussian", (12, 10), 1e6, 5)
    source[:3] = 0
    problem = pmapde.TransportProblem(source, target, grid=pmapde.Grid((12, 10), [(0, 3), (-1, 1)]))
    header, arrays = archive.packed_problem(problem)
    again = archive.rebuilt_problem(json.loads(json.dumps(header)), arrays)
    for name in ("source_values", "target_values", "source_support"):
        assert np.array_equal(getattr(again, name), getattr(problem, name))
    assert repr(again) == repr(problem) and again.floor == problem.floor
