"""Sinkhorn at small temperature against the parabolic flow."""
import csv
import math

import numpy as np
import pytest

import pmapde
from pmapde.limit import COLUMNS
from pmapde.transfer import with_faces


def waves(n, periodic, amplitude=0.3):
    x = (np.arange(n) + 0.5) / n
    turn = (2 if periodic else 1) * np.pi
    source = 1 + amplitude * np.outer(np.cos(turn * x), np.cos(2 * np.pi * x))
    target = 1 + amplitude * np.outer(np.cos(2 * np.pi * x + (0.5 if periodic else 0)), np.ones(n))
    return pmapde.TransportProblem(source, target, grid=pmapde.Grid((n, n), periodic=periodic))


def test_potentials_on_the_torus_are_off_by_epsilon_and_with_the_half_shift_by_its_square():
    """Berman's setting; uniformly in time."""
    epsilons = [1 / 200, 1 / 400, 1 / 800, 1 / 1600]
    plain = pmapde.sinkhorn_limit(waves(96, True), epsilons, 0.05)
    assert plain.resolved.all() and plain.extrapolated
    assert (np.diff(plain.slopes()) > 0).all() and (plain.slopes() < 1.01).all()  # from below
    for name in ("sup", "l2", "uniform"):
        assert abs(plain.slopes(name)[-1] - 1) < 0.1, name
    assert plain.slopes("w2") == pytest.approx(plain.slopes(), abs=0.01)
    shifted = pmapde.sinkhorn_limit(waves(96, True), epsilons, 0.05, shifted=True, marginals=False)
    assert abs(shifted.slopes()[-1] - 2) < 0.15
    assert (shifted.sup < 0.1 * plain.sup).all()


def test_potentials_on_a_box_have_a_boundary_layer():
    epsilons = [1 / 200, 1 / 400, 1 / 800]
    plain = pmapde.sinkhorn_limit(waves(96, False), epsilons, 0.1, marginals=False)
    shifted = pmapde.sinkhorn_limit(waves(96, False), epsilons, 0.1, shifted=True, marginals=False)
    assert abs(plain.slopes()[-1] - 1) < 0.1 and (np.diff(plain.slopes()) > 0).all() and plain.slopes()[-1] < 1
    assert abs(shifted.slopes()[-1] - 1) < 0.15  # first order in the layer
    assert shifted.slopes("interior")[-1] > 1.3  # and better inside
    assert (shifted.interior < 0.2 * plain.interior).all()


def test_the_distance_on_a_box_is_that_of_the_closed_box():
    """Whatever the grid, to second order; over the cell centres alone it is off by first order, and rates with it."""
    epsilons, over = [1 / 200, 1 / 800], {}
    for n in (48, 96, 192):
        gap = pmapde.sinkhorn_limit(waves(n, False), epsilons, 0.05, marginals=False, checkpoints=1)
        over[n] = gap.sup
        assert (gap.uniform >= gap.sup).all() and gap.slopes("centres")[0] > gap.slopes()[0] + 1.2 / n
    assert (np.abs(over[96] / over[192] - 1) < 0.006).all() and (np.abs(over[48] / over[192] - 1) < 0.025).all()
    assert np.log(over[192][0] / over[192][1]) / np.log(4) == pytest.approx(0.975, abs=0.003)


def test_half_shifted_marginals_are_those_of_half_a_step_later():
    problem, off = waves(96, True), []
    u = problem.quadratic(problem.grid.cell_centres())
    for epsilon in (1 / 100, 1 / 200):
        sweeps = round(0.05 / epsilon)
        plan = pmapde.sinkhorn(problem, epsilon, sweeps, start=pmapde.half_shift(problem, u, -epsilon))
        run = pmapde.flow(problem, [sweeps * epsilon, (sweeps + 0.5) * epsilon], tolerance=1e-6, ledger=None)
        off.append([np.abs(plan.source_marginal - run.density(k)).mean() for k in (0, 1)])
    rates = np.log2(np.divide(*off))
    assert abs(rates[0] - 1) < 0.15 and rates[1] > 1.6 and off[1][1] < 0.05 * off[1][0]


def test_distances_are_judged_by_the_error_that_is_theirs():
    """The marginals' does not hide behind the potentials', nor what is small in the middle behind what is at the faces.
    """
    epsilons = [1 / 400, 1 / 1600, 1 / 3200]
    coarse, fine = (pmapde.sinkhorn_limit(waves(n, True), epsilons, 0.05, checkpoints=0) for n in (48, 96))
    assert coarse.w2 == pytest.approx(fine.w2, rel=0.01) and (np.abs(coarse.slopes("w2") - 1) < 0.02).all()
    assert 0 < fine.w2_floor < 0.2 * coarse.w2_floor < 0.01 * coarse.w2[-1]
    box = pmapde.sinkhorn_limit(waves(44, False), [1 / 400, 1 / 800], 0.05, shifted=True, marginals=False)
    assert box.resolved.all() and box.is_resolved("interior").tolist() == [True, False]
    assert math.isnan(box.slopes("interior")[0]) and math.isnan(box.w2_floor) and np.isnan(box.slopes("w2")).all()


def test_faces_complete_a_field():
    x, y = (np.arange(7) + 0.5) / 7, (np.arange(5) + 0.5) / 5
    full = with_faces(np.add.outer(x**3 - x, y**2), (False, False))
    x, y = (np.concatenate([[0], nodes, [1]]) for nodes in (x, y))
    assert full == pytest.approx(np.add.outer(x**3 - x, y**2), abs=1e-14)
    field = np.random.default_rng(0).random((3, 4))
    assert with_faces(field, (True, True)) is field and with_faces(field, (True, False)).shape == (3, 6)
    for n in (2, 3):
        nodes = (np.arange(n) + 0.5) / n
        ends = with_faces(np.tile(nodes**(n - 1), (3, 1)), (True, False))[:, [0, -1]]
        assert ends == pytest.approx(np.tile([0.0, 1.0], (3, 1)), abs=1e-14)


def test_the_error_does_not_grow_with_time():
    late = pmapde.sinkhorn_limit(waves(64, True), [1 / 200], 1.0, marginals=False)
    early = pmapde.sinkhorn_limit(waves(64, True), [1 / 200], 0.05, marginals=False)
    assert late.sup[0] < 1.2 * early.sup[0] and late.uniform[0] < 1.2 * late.sup[0]


def test_a_wrong_clock_fails_by_a_wide_margin():
    problem, epsilons = waves(64, True), [1 / 200, 1 / 800]
    right = pmapde.sinkhorn_limit(problem, epsilons, 0.02, marginals=False)
    wrong = pmapde.sinkhorn_limit(problem, epsilons, 0.02, clock=2.0, marginals=False)
    assert wrong.sup[-1] > 10 * right.sup[-1] and wrong.slopes()[0] < 0.3 < 0.9 < right.slopes()[0]


def test_temperatures_too_small_for_the_grid_give_no_rate(tmp_path):
    gap = pmapde.sinkhorn_limit(waves(24, True), [1 / 100, 1 / 400, 1 / 4000], 0.02, marginals=False)
    assert gap.resolved.tolist()[0] and not gap.resolved[-1] and gap.blur[-1] < 0.8
    assert math.isnan(gap.slopes()[-1]) and "too coarse" in str(gap)
    gap.write_csv(tmp_path / "gap.csv")
    with open(tmp_path / "gap.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS) and float(rows[1]["sup"]) == gap.sup[1]
    box = pmapde.sinkhorn_limit(waves(24, False), [1 / 100, 1 / 400], 0.02, marginals=False)  # cut off by the faces
    assert box.blur[-1] > 0.8 and box.resolved.tolist() == [True, False]


def test_other_starts_boxes_grids_and_three_dimensions():
    n = 20
    grid = pmapde.Grid((n, n, n), [(-1, 1)] * 3)
    x = grid.cell_centres()
    source = 1 + 0.3 * np.prod(np.cos(np.pi * x), axis=0)
    problem = pmapde.TransportProblem(source, np.ones((16, 20, 18)), grid=grid,
                                      target_grid=pmapde.Grid((16, 20, 18), [(-1, 1)] * 3))
    gap = pmapde.sinkhorn_limit(problem, [0.1, 0.05], 0.4, marginals=False, checkpoints=0)
    assert abs(gap.slopes()[0] - 1) < 0.3
    start = problem.quadratic(x) + 0.02 * np.prod(np.cos(np.pi * x), axis=0)
    other = pmapde.sinkhorn_limit(problem, [0.1, 0.05], 0.4, marginals=False, start=start)
    assert (other.sup < 3 * gap.sup).all() and other.sup[1] < 0.7 * other.sup[0]


@pytest.mark.parametrize(("changed", "message"), [
    ({"epsilons": [0.01, 0.02]}, "`epsilons` must be one or several decreasing positive"),
    *[({"epsilons": wrong}, "`epsilons` must be one or several") for wrong in ([0.0], [], ["a"], "0.1", [0.1j], [[0.1]],
                                                                               [math.nan], None)],
    *[({"time": wrong}, "`time` must be at least the largest temperature, 0.01") for wrong in (0.001, "1", None, True)],
    *[({"checkpoints": wrong}, "`checkpoints` must be a whole number >= 0") for wrong in (-1, 1.5, "a", None)],
    *[({"clock": wrong}, "`clock` must be a positive number") for wrong in (0, -1, math.nan, "a")],
    ({"start": np.zeros(3)}, r"`start` must be finite values of .* on the grid of shape \(16, 16\)"),
    ({"start": "abc"}, "`start` must be finite values of a potential, real numbers"),
])
def test_bad_arguments_are_refused(changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        pmapde.sinkhorn_limit(waves(16, True), **{"epsilons": [0.01], "time": 0.1, **changed})
    assert "\n" not in str(caught.value)
