"""Mirror descent: identities, bounds, schedules, limits of explicit steps."""
import math

import numpy as np
import pytest

import pmapde
from pmapde import exact, gallery, rates, schedules
from pmapde.gaussian import GaussianFlow
from pmapde.mirror import low_modes


def two_gaussians(n, floor=0.1):
    return pmapde.TransportProblem(gallery.load("two_gaussians", (n, n)), np.ones((n, n)), floor=floor)


# closed forms, no grid


@pytest.mark.parametrize(("schedule", "averages"), [
    (schedules.constant(0.5), (0.23226, 0.023250, 0.0023250)),
    (schedules.inverse_sqrt(0.8), (0.38049, 0.10288, 0.030945)),
    (schedules.inverse(0.9), (0.69649, 0.39452, 0.27345))])
def test_regret_identity_between_gaussians_for_every_schedule(schedule, averages):
    closed = GaussianFlow([1.0], [[4.0]], [0.0], [[1.0]])
    etas = [schedule(k, None) for k in range(1000)]
    rows = closed.explicit(etas)
    assert rows[0]["bregman"] == pytest.approx(1.0)  # W2^2 / 2 of N(0, 1) and N(1, 4)
    gaps = np.array([row["kl_reverse"] + row["kl_forward"] for row in rows[:-1]])
    for count, average in zip((10, 100, 1000), averages):
        left = np.sum(np.array(etas[:count]) * gaps[:count])
        right = rows[0]["bregman"] - rows[count]["bregman"] + sum(row["stability"] for row in rows[1:count + 1])
        assert left == pytest.approx(right, abs=1e-10)
        assert left / sum(etas[:count]) == pytest.approx(average, rel=1e-4)


def test_regret_identity_between_gaussians_that_do_not_commute():
    rng = np.random.default_rng(5)

    def covariance():
        factor = rng.standard_normal((3, 3))
        return factor @ factor.T / 3 + 0.5 * np.eye(3)

    closed = GaussianFlow(rng.standard_normal(3), covariance(), rng.standard_normal(3), covariance())
    etas = [0.05 / math.sqrt(k + 1) for k in range(200)]
    rows = closed.explicit(etas)
    left = sum(eta * (row["kl_reverse"] + row["kl_forward"]) for eta, row in zip(etas, rows))
    assert left == pytest.approx(rows[0]["bregman"] - rows[-1]["bregman"] + sum(row["stability"] for row in rows),
                                 rel=1e-12)


def test_schedules():
    assert [schedules.polynomial(2.0, -1.0)(k, 9.0) for k in (0, 1, 3)] == [2.0, 1.0, 0.5]
    assert schedules.inverse(2.0, relative=True)(3, 0.5) == 0.25
    assert schedules.inverse_sqrt(1.0)(3, None) == 0.5
    assert schedules.automatic(0.8)(100, 2.0) == 1.6
    with pytest.raises(ValueError, match="must be positive"):
        schedules.constant(0.0)
    with pytest.raises(ValueError, match="`ratio` must be positive"):
        schedules.geometric(1.0, -2.0)


# on grids


def test_explicit_steps_follow_the_gaussian_recursion():
    problem, closed = rates.gaussian_problem(32)
    run = pmapde.mirror_descent(problem, schedules.automatic(0.5), 60)
    rows = closed.explicit(run.etas)
    assert run.success and run.etas.sum() > 0.1 and (run.etas < run.limits).all()
    for name in ("kl_reverse", "kl_forward"):
        wanted = np.array([row[name] for row in rows])
        assert np.abs(run.ledger[name] / wanted - 1).max() < 2e-3
    mean = np.array([(axis * run.density()).sum() for axis in problem.grid.cell_centres()]) * problem.grid.cell_volume
    assert np.abs(mean - rows[-1]["mean"]).max() < 1e-5


def test_explicit_regret_identity_closes_at_second_order_and_the_bound_holds():
    left = {}
    for n in (16, 32):
        run = pmapde.mirror_descent(two_gaussians(n), schedules.automatic(0.8), n * n // 4, ledger="full")
        ledger = run.ledger
        left[n] = abs(ledger["identity"][-1])
        assert (ledger["gap"][1:] <= ledger["bound"][1:] * (1 + 4 * left[n])).all()
        assert (ledger["regret"] <= ledger["gap"]).all()
        # stability term below eta^2 I / (2 lambda)
        assert (ledger["stability"][1:] <= 1.02 * ledger["eta"][1:]**2 * ledger["fisher"][:-1]
                / (2 * ledger["lambda_min"][1:])).all()
    assert left[32] < 0.02 and 1.7 < math.log2(left[16] / left[32]) < 2.4


PLANS = [schedules.constant(0.01), schedules.constant(1.0), schedules.inverse_sqrt(0.03), schedules.inverse(0.1),
         schedules.polynomial(0.001, 1.0), schedules.geometric(0.001, 2.0), schedules.geometric(0.001, 10.0)]


@pytest.mark.parametrize("schedule", PLANS, ids=lambda schedule: schedule.name)
def test_implicit_regret_is_bounded_by_the_start_for_every_schedule(schedule):
    run = pmapde.mirror_descent(two_gaussians(32), schedule, 10, scheme="implicit", ledger="full", throw=True)
    ledger = run.ledger
    assert (ledger["bound"] == ledger.half_cost).all()
    assert (ledger["gap"] <= ledger.half_cost).all()
    assert np.abs(ledger["identity"]).max() < 0.02  # second order: the next test
    for name in ("kl_reverse", "kl_forward", "bregman"):
        assert (np.diff(ledger[name]) < 1e-14).all(), name


def test_implicit_identity_closes_at_second_order():
    left = {}
    for n in (32, 64, 128):
        run = pmapde.mirror_descent(two_gaussians(n), schedules.geometric(0.002, 1.5), 20, scheme="implicit",
                                    ledger="full", throw=True)
        left[n] = abs(run.ledger["identity"][-1])
    assert left[128] < 1e-3
    assert 1.7 < math.log2(left[64] / left[128]) < 2.4 and 1.7 < math.log2(left[32] / left[64]) < 2.4


def test_implicit_steps_that_grow_geometrically_converge_geometrically():
    run = pmapde.mirror_descent(two_gaussians(48), schedules.geometric(0.003, 2.0), 12, scheme="implicit")
    falls = run.ledger["kl_reverse"][4:12] / run.ledger["kl_reverse"][3:11]
    assert (falls[run.ledger["kl_reverse"][4:12] > 1e-14] < 0.5).all()
    solution = pmapde.solve(two_gaussians(48), tolerance=1e-9)
    assert np.ptp(run.displacement_potential - solution.displacement_potential) < 1e-7


def test_huge_steps_do_not_drown_the_potential_in_its_mean():
    """The mean gains eta times the drift; steps that grow make that 1e20 times the rest."""
    run = pmapde.mirror_descent(two_gaussians(24), schedules.geometric(0.001, 10.0), 25, scheme="implicit")
    assert run.success and run.etas[-1] == pytest.approx(1e21)
    assert (np.abs(run.ledger["kl_reverse"][8:]) < 1e-13).all()
    assert run.displacement_potential.mean() == pytest.approx(
        np.sum(run.etas * run.ledger["drift"][1:]), rel=1e-6)
    with_small = pmapde.mirror_descent(two_gaussians(16), schedules.geometric(0.1, 0.5), 60, scheme="implicit")
    assert np.array_equal(with_small.ledger["eta"][1:], with_small.etas)  # below the last digit of their sum


def test_the_implicit_step_is_the_backward_euler_step():
    problem = two_gaussians(32)
    run = pmapde.mirror_descent(problem, 0.02, 3, scheme="implicit", tolerance=1e-9)
    euler = pmapde.flow(problem, 0.06, pmapde.BackwardEuler(step=0.02), tolerance=1e-9)
    assert np.abs(run.displacement_potential - euler.displacement_potentials[-1]).max() < 1e-9
    # the equation itself
    before = pmapde.mirror_descent(problem, 0.02, 2, scheme="implicit", tolerance=1e-9)
    left = run.displacement_potential - before.displacement_potential - 0.02 * run.log_ratio
    assert np.abs(left).max() < 1e-7


def test_limit_of_explicit_steps():
    """At the steady state: stable a little below the measured limit, not above; the predicted one is safe."""
    problem = two_gaussians(16)
    solution = pmapde.solve(problem, tolerance=1e-10)
    predicted, measured = pmapde.explicit_limit(problem, solution.potential)
    assert predicted <= measured < 2 * predicted
    ripple = solution.potential + 1e-9 * np.cos(np.pi * np.add.outer(np.arange(16), np.arange(16)))
    stable = pmapde.mirror_descent(problem, 0.95 * measured, 300, start=ripple)
    unstable = pmapde.mirror_descent(problem, 1.1 * measured, 300, start=ripple)
    assert stable.success and stable.ledger["kl_reverse"][-1] < 1e-15
    assert not unstable.success or unstable.ledger["kl_reverse"][-1] > 1e-10


def test_a_step_that_loses_convexity_is_reported_shortened_or_refused():
    problem = two_gaussians(16)
    eta = 4 * pmapde.explicit_limit(problem)[1]
    stopped = pmapde.mirror_descent(problem, eta, 200)
    assert stopped.status is pmapde.Status.CONVEXITY_LOST and 0 < len(stopped.etas) < 200
    assert np.isfinite(stopped.log_ratio).all() and len(stopped.ledger) == len(stopped.etas) + 1
    shortened = pmapde.mirror_descent(problem, eta, 200, on_convexity_loss="shorten")
    assert shortened.success and shortened.shortened > 0 and shortened.etas.min() < eta == shortened.etas.max()
    with pytest.raises(pmapde.SolverError, match="CONVEXITY_LOST") as caught:
        pmapde.mirror_descent(problem, eta, 200, on_convexity_loss="raise")
    assert len(caught.value.solution.etas) == len(stopped.etas)


@pytest.mark.parametrize(("shape", "modes"), [((24, 24), None), ((24, 24), 4), ((10, 10, 10), None)])
def test_the_automatic_step_is_safe_for_rough_data_too(shape, modes):
    rough = pmapde.TransportProblem(np.exp(np.random.default_rng(1).standard_normal(shape) * 2), np.ones(shape))
    run = pmapde.mirror_descent(rough, schedules.automatic(0.95), 100, modes=modes)
    assert run.success and (run.etas < run.limits).all()
    assert run.limits[0] < 0.9 * pmapde.explicit_limit(rough)[0] or modes
    assert run.ledger["kl_reverse"][-1] < run.ledger["kl_reverse"][0]


def test_dual_descent_is_that_of_the_swapped_problem():
    known = exact.gaussians((24, 20), "expanding")
    problem = pmapde.TransportProblem(known.problem.source_values, known.problem.target_values)
    dual = pmapde.mirror_descent(problem, schedules.automatic(), 10, scheme="dual")
    swapped = pmapde.mirror_descent(problem.swapped(), schedules.automatic(), 10)
    assert np.array_equal(dual.potential, swapped.potential)
    primal = pmapde.mirror_descent(problem, schedules.automatic(), 10)
    # from |x|^2 / 2 the forward divergence of one is the reverse one of the other
    assert dual.ledger["kl_reverse"][0] == pytest.approx(primal.ledger["kl_forward"][0], rel=1e-3)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_family_of_low_modes_takes_steps_that_do_not_depend_on_the_grid(periodic):
    etas, left = [], []
    for n in (32, 64, 128):
        problem = exact.manufactured((n, n), periodic=periodic).problem
        run = pmapde.mirror_descent(problem, schedules.automatic(0.8), 60, modes=6, ledger="full", throw=True)
        ledger = run.ledger
        etas.append(run.etas[0])
        left.append(abs(ledger["identity"][-1]))
        assert (ledger["gap"][1:] <= ledger["bound"][1:] * 1.02).all()
        assert ledger["kl_reverse"][-1] < 0.05 * ledger["kl_reverse"][0]
    assert etas[1] == pytest.approx(etas[0], rel=0.05) and etas[1] > 10 * 0.25 / 64**2
    assert left[2] < 1e-3 and 1.7 < math.log2(left[0] / left[1]) < 2.4 and 1.7 < math.log2(left[1] / left[2]) < 2.4


@pytest.mark.parametrize("periodic", [(False, False), (True, False)])
def test_low_modes_is_a_projection_that_keeps_low_waves(periodic):
    rng = np.random.default_rng(0)
    field = rng.standard_normal((24, 18))
    low = low_modes(field, 5, periodic)
    assert np.allclose(low_modes(low, 5, periodic), low, atol=1e-13)
    assert abs(np.sum(low * (field - low))) < 1e-11
    x = [(np.arange(n) + 0.5) / n for n in field.shape]
    wave = np.outer(np.cos((4 if periodic[0] else 3) * np.pi * x[0] + (0.4 if periodic[0] else 0)),
                    np.cos(4 * np.pi * x[1]))
    assert np.allclose(low_modes(wave, 5, periodic), wave, atol=1e-13)
    assert np.allclose(low_modes(np.outer(np.cos(6 * np.pi * x[0]), np.ones(18)), 5, periodic), 0, atol=1e-13)


def test_comparator_and_callback():
    problem = two_gaussians(24)
    sigma = np.add.outer(np.linspace(1, 2, 24), np.linspace(1, 1.5, 24))
    seen = []
    run = pmapde.mirror_descent(problem, 0.01, 8, scheme="implicit", ledger="full", comparator=sigma,
                                callback=lambda k, phi: seen.append(k) or k == 4)
    assert run.status is pmapde.Status.STOPPED and seen == [0, 1, 2, 3, 4] and len(run.ledger) == 6
    assert np.abs(run.ledger["evi"]).max() < 0.05  # second order, 24 cells
    assert run.ledger["slack"][1:] == pytest.approx(run.ledger["kl_comparator"][1:], rel=0.1)
    assert "STOPPED" in str(run)
    assert pmapde.mirror_descent(problem, 1e-4, 5, max_seconds=0).status is pmapde.Status.MAX_SECONDS


@pytest.mark.parametrize(("arguments", "settings", "error", "message"), [
    ((0.1, 0), {}, ValueError, "`iterations` must be"), ((0.1, 5), {"scheme": "euler"}, ValueError, "`scheme` must be"),
    ((0.1, 5), {"on_convexity_loss": "ignore"}, ValueError, "`on_convexity_loss` must be"),
    ((-0.1, 5), {}, ValueError, "must be positive"),
    ((lambda k, limit: math.nan, 5), {}, ValueError, "`schedule` must give positive step sizes, got nan"),
    ((0.1, 5), {"modes": 4, "scheme": "implicit"}, ValueError, "`modes` must be"),
    ((0.1, 5), {"method": pmapde.TRBDF2()}, TypeError, "`method` must be BackwardEuler"),
    (("constant", 5), {}, TypeError, "`schedule` must be a step size or a function"),
    ((0.1, 5), {"scheme": "implicit", "tolerance": 0.0}, ValueError, "`tolerance` must be between"),
    ((0.1, 5), {"start": np.full((16, 16), np.nan)}, ValueError, "`start` must be finite"),
])
def test_bad_arguments_of_mirror_descent_are_refused(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        pmapde.mirror_descent(two_gaussians(16), *arguments, **settings)


def test_studies_have_the_slopes_of_theory(tmp_path):
    space = rates.space(quick=True).slopes()
    assert len(space) == 4 and all(abs(slope - 2) < 0.05 for slope in space.values())
    regret = rates.regret(quick=True)
    bound = next(series for series in regret.series if series.label.startswith("implicit, bound"))
    for series in regret.series:
        if series.label.startswith("implicit") and not series.reference:
            assert (series.y <= bound.y[0]).all()
    sublinear = rates.sublinear(quick=True)
    for measured, limit in zip(sublinear.series[::2], sublinear.series[1::2]):
        assert (measured.y <= limit.y).all(), measured.label
    regret.write_csv(tmp_path / "regret.csv")
    lines = (tmp_path / "regret.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(series.x) for series in regret.series)
