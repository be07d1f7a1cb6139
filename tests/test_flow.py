"""The flow in true time: closed forms, orders, the ledger's identities, honest ends."""
import math

import numba
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import pmapde
from pmapde import exact, gallery, rates
from pmapde.gaussian import GaussianFlow
from pmapde.integrators import ESDIRK3, TRBDF2, BackwardEuler, half_range
from pmapde.ledger import Bookkeeper
from pmapde.legendre import SmoothPotential

INTEGRATORS = (BackwardEuler, TRBDF2, ESDIRK3)


def two_gaussians(n, floor=0.1):
    return pmapde.TransportProblem(gallery.load("two_gaussians", (n, n)), np.ones((n, n)), floor=floor)


def matrix(tableau):
    a = np.zeros((len(tableau.c),) * 2)
    for row, coefficients in zip(a, tableau.a):
        row[:len(coefficients)] = coefficients
    return a


# the integrators


@pytest.mark.parametrize("method", INTEGRATORS)
def test_tableau_fulfils_the_order_conditions_and_is_l_stable(method):
    tableau, a = method.tableau, matrix(method.tableau)
    c, b, order = np.array(tableau.c), a[-1], method.order
    assert np.allclose(a.sum(axis=1), c, atol=1e-14)
    assert abs(b.sum() - 1) < 1e-14
    if order >= 2:
        assert abs(b @ c - 1 / 2) < 1e-14
    if order >= 3:
        assert abs(b @ c**2 - 1 / 3) < 1e-14 and abs(b @ a @ c - 1 / 6) < 1e-14

    def stability(weights, z):
        return 1 + weights @ np.linalg.solve(np.eye(len(c)) - z * a, z * np.ones(len(c)))

    assert abs(stability(b, -1e7)) < 1e-5
    assert max(abs(stability(b, 1j * y - 1e-9)) for y in np.geomspace(1e-3, 1e3, 200)) <= 1 + 1e-6
    # the weights of the error estimate: consistent of one order less (or more)
    other = b - np.array(tableau.error)
    assert abs(other.sum() - 1) < 1e-14
    assert abs(other @ c - 1 / 2) < 1e-13


def test_coefficients_are_those_of_the_paper():
    """ARK3(2)4L[2]SA, Kennedy & Carpenter (2003), implicit part: rounded rationals."""
    assert ESDIRK3.tableau.a[1][1] == pytest.approx(1767732205903 / 4055673282236, abs=1e-12)
    assert ESDIRK3.tableau.a[2][0] == pytest.approx(2746238789719 / 10658868560708, abs=1e-12)
    assert ESDIRK3.tableau.a[3][0] == pytest.approx(1471266399579 / 7840856788654, abs=1e-12)
    embedded = np.array(ESDIRK3.tableau.a[3]) - ESDIRK3.tableau.error
    assert embedded == pytest.approx([2756255671327 / 12835298489170, -10771552573575 / 22201958757719,
                                      9247589265047 / 10645013368117, 2193209047091 / 5459859503100], abs=1e-12)


def test_orders_in_time():
    problem, end, counts = exact.manufactured((32, 32), periodic=True).problem, 0.02, np.array([8, 16, 32])

    def last(method, tolerance=1e-9):
        run = pmapde.flow(problem, end, method, tolerance=tolerance, ledger=None, throw=True)
        return run.displacement_potentials[-1]

    reference = last(ESDIRK3(step=end / 200), 1e-10)
    for method in INTEGRATORS:
        errors = [half_range(last(method(step=end / count)) - reference) for count in counts]
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(slope - method.order) < 0.15, (method.__name__, slope)


def test_steps_may_be_far_beyond_the_explicit_limit():
    problem = exact.manufactured((32, 32)).problem
    limit = pmapde.explicit_limit(problem)[1]
    step = next(pmapde.steps(problem, BackwardEuler(step=1000 * limit)))
    assert step.status is None and step.time == 1000 * limit
    assert np.isfinite(step.log_ratio).all() and np.abs(step.log_ratio).max() < 0.2


def test_error_control_keeps_its_promise_whatever_the_steps():
    problem, times = two_gaussians(32), [0.003, 0.1]
    reference = pmapde.flow(problem, times, tolerance=1e-7, ledger=None, throw=True)
    for method in INTEGRATORS:
        for tolerance in (1e-2, 1e-3) if method is BackwardEuler else (1e-3, 1e-5):
            run = pmapde.flow(problem, times, method(), tolerance=tolerance, ledger=None, throw=True)
            for got, wanted in zip(run.displacement_potentials, reference.displacement_potentials):
                assert half_range(got - wanted) <= tolerance * half_range(wanted), (method.__name__, tolerance)
            assert (run.history["error"] <= run.history["allowed"]).all()
            assert run.history["time"][-1] == times[-1]


def test_dense_output_does_not_change_the_steps_and_is_accurate():
    problem = two_gaussians(32)
    plain = pmapde.flow(problem, [0.01, 0.1], tolerance=1e-5, ledger=None)
    dense = pmapde.flow(problem, [0.01, 0.0234, 0.05, 0.1], tolerance=1e-5, ledger=None)
    assert np.array_equal(plain.history["time"], dense.history["time"])
    assert np.array_equal(plain.potentials[-1], dense.potentials[-1])
    direct = pmapde.flow(problem, [0.01, 0.0234], tolerance=1e-6, ledger=None)
    error = half_range(dense.displacement_potentials[1] - direct.displacement_potentials[1])
    assert error <= 1e-5 * half_range(direct.displacement_potentials[1])


def test_work_of_a_flow_is_bounded():
    run = pmapde.flow(two_gaussians(64, 0.25), 1.0, tolerance=1e-2, ledger=None, throw=True)
    reference = pmapde.flow(two_gaussians(64, 0.25), 1.0, tolerance=1e-6, ledger=None, throw=True)
    error = half_range(run.potentials[-1] - reference.potentials[-1])
    assert error <= 5e-6 * half_range(reference.potentials[-1])
    assert error <= 1e-4 * half_range(reference.displacement_potentials[-1])
    assert sum(run.stats["work"].values()) <= 2000
    assert run.history["newton_iterations"].sum() <= 2 * 3 * len(run.history["time"]) + 10
    assert set(run.stats["linear"]) == {"geometric"} and not run.stats["fallbacks"]


def test_a_fixed_step_that_divides_the_time_leaves_no_sliver():
    run = pmapde.flow(two_gaussians(16), 1.0, BackwardEuler(step=0.1))  # 0.1 added ten times is less than 1
    assert len(run.history["dt"]) == 10 and run.history["time"][-1] == 1.0
    assert np.isfinite(run.ledger["kl_reverse"]).all()
    short = pmapde.flow(two_gaussians(16), 0.25, BackwardEuler(step=0.1), ledger=None)
    assert short.history["dt"] == pytest.approx([0.1, 0.1, 0.05])


@pytest.mark.parametrize("length", [1e-7, 1e4])
def test_units_of_the_boxes_do_not_matter(length):
    def run(length):
        grid = pmapde.Grid((16, 16), [(0, length)] * 2)
        problem = pmapde.TransportProblem(gallery.load("two_gaussians", (16, 16)), np.ones((16, 16)), floor=0.1,
                                          grid=grid, target_grid=grid)
        flow = pmapde.flow(problem, 0.1 * length**2, tolerance=1e-5, ledger="full")
        descent = pmapde.mirror_descent(problem, 0.01 * length**2, 3, scheme="implicit", ledger=None)
        return flow, descent.displacement_potential / length**2

    (one, implicit), (other, scaled) = run(1.0), run(length)
    assert len(one.history["dt"]) == len(other.history["dt"])
    assert np.abs(one.potentials - other.potentials / length**2).max() < 1e-9
    assert np.abs(implicit - scaled).max() < 1e-9
    assert other.ledger["identity"][-1] == pytest.approx(one.ledger["identity"][-1], rel=1e-5)


def test_rough_data_give_finite_densities_between_steps():
    """Hermite interpolants of rough potentials may lose convexity; linear ones do not."""
    rough = pmapde.TransportProblem(np.exp(2 * np.random.default_rng(3).standard_normal((32, 32))), np.ones((32, 32)))
    times = np.geomspace(1e-5, 0.1, 12)
    for method, tolerance in ((ESDIRK3(), 0.1), (TRBDF2(), 0.01)):
        with pytest.warns(pmapde.ImbalanceWarning):
            run = pmapde.flow(rough, times, method, tolerance=tolerance, ledger=None, throw=True)
        assert np.isfinite(run.log_ratios).all() and len(run.times) == len(times)


# closed forms


def test_gaussian_closed_form_solves_the_riccati_equation():
    rng = np.random.default_rng(3)

    def covariance():
        factor = rng.standard_normal((3, 3))
        return factor @ factor.T / 3 + 0.3 * np.eye(3)

    closed = GaussianFlow(rng.standard_normal(3), covariance(), rng.standard_normal(3), covariance(),
                          hessian=covariance(), slope=rng.standard_normal(3))

    def rate(t, y):
        a, b = y[:9].reshape(3, 3), y[9:12]
        shift = b - closed.m_nu
        logs = [np.linalg.slogdet(m)[1] for m in (a, closed.s_mu, closed.s_nu)]
        c = (closed.m_mu @ closed.p @ closed.m_mu - shift @ closed.q @ shift + logs[1] - logs[2]) / 2 + logs[0]
        return np.concatenate([(closed.p - a @ closed.q @ a).ravel(), -closed.p @ closed.m_mu - a @ closed.q @ shift,
                               [c]])

    start = np.concatenate([closed.a_0.ravel(), closed.b_0, [0.0]])
    solved = solve_ivp(rate, (0, 1.3), start, rtol=1e-11, atol=1e-12).y[:, -1]
    assert np.allclose(closed.hessian(1.3).ravel(), solved[:9], atol=1e-8)
    assert np.allclose(closed.slope(1.3), solved[9:12], atol=1e-8)
    assert closed.constant(1.3) == pytest.approx(solved[12], abs=1e-8)
    assert np.allclose(closed.hessian(40), closed.limit, atol=1e-7)
    # the evolution variational equality with the source itself: dD/dt = -S
    step = 1e-5
    slope = (closed.bregman(0.7 + step) - closed.bregman(0.7 - step)) / (2 * step)
    assert slope == pytest.approx(-(closed.kl_reverse(0.7) + closed.kl_forward(0.7)), rel=1e-7)


@pytest.mark.parametrize(("t", "a", "b", "c", "reverse", "forward", "bregman"), [
    (0.5, 0.7534106661, -0.1026391939, 0.3305694909, 0.2234788810, 0.4370046640, 0.4515275681),
    (4.0, 0.5061427155, -0.4153649760, 0.9960913085, 0.0041687871, 0.0042706184, 0.0082896874)])
def test_gaussian_closed_form_in_numbers(t, a, b, c, reverse, forward, bregman):
    """N(1, 4) from N(0, 1), integrated independently to ten digits."""
    closed = GaussianFlow([1.0], [[4.0]], [0.0], [[1.0]])
    found = (closed.hessian(t)[0, 0], closed.slope(t)[0], closed.constant(t), closed.kl_reverse(t),
             closed.kl_forward(t), closed.bregman(t))
    assert found == pytest.approx((a, b, c, reverse, forward, bregman), abs=2e-10)


def test_flow_follows_the_gaussian_closed_form():
    """Covariances that do not commute, judged where rho has its mass; what is left is the truncation to the box."""
    problem, closed = rates.gaussian_problem(40)
    grid, times = problem.grid, [0.05, 0.3, 1.5]
    run = pmapde.flow(problem, times, tolerance=1e-5, throw=True)
    x = grid.cell_centres()
    for k, t in enumerate(times):
        rho, a, b = run.density(k), closed.hessian(t), closed.slope(t)
        mean, covariance = closed.model(t)
        mass = rho * grid.cell_volume
        got = np.array([(mass * axis).sum() for axis in x])
        centred = x - got[:, None, None]
        assert np.abs(got - mean).max() < 1e-5
        assert np.abs(np.einsum("iab,jab,ab->ij", centred, centred, mass) - covariance).max() < 3e-4
        away = x - mean[:, None, None]
        core = np.einsum("iab,ij,jab->ab", away, np.linalg.inv(covariance), away) < 9
        gradient = [np.gradient(run.potentials[k], h, axis=axis) for axis, h in enumerate(grid.spacing)]
        for i in range(2):
            for j in range(2):
                hessian = np.gradient(gradient[i], grid.spacing[j], axis=j)
                assert np.average(hessian[core], weights=rho[core]) == pytest.approx(a[i, j], abs=1e-4)
        wanted = 0.5 * np.einsum("iab,ij,jab->ab", x, a, x) + np.einsum("i,iab->ab", b, x) + closed.constant(t)
        start = problem.quadratic(x) - 0.5 * (x**2).sum(axis=0)
        difference = (run.potentials[k] - start - wanted)[core]
        assert np.abs(difference).max() < 2e-4  # the mean too: it carries the normalising constant
    ledger = run.ledger
    decades = ledger["kl_reverse"] > 1e-3 * ledger["kl_reverse"][0]
    assert ledger["kl_reverse"][-1] < 1e-3 * ledger["kl_reverse"][0]
    for name, form in (("kl_reverse", closed.kl_reverse), ("kl_forward", closed.kl_forward)):
        wanted = np.array([form(t) for t in ledger["time"][decades]])
        assert np.abs(ledger[name][decades] / wanted - 1).max() < 0.005


def test_a_contracting_pair_on_a_no_flux_box_is_warned_about():
    grid = pmapde.Grid((32, 32), [(-8, 8)] * 2)
    problem = pmapde.TransportProblem(pmapde.LogDensity(lambda x: -(x**2).sum(axis=1) / 8, lambda x: -x / 4),
                                      pmapde.LogDensity(lambda x: -(x**2).sum(axis=1) / 2, lambda x: -x),
                                      grid=grid, target_grid=grid)
    with pytest.warns(pmapde.ImbalanceWarning, match="match the boxes"):
        pmapde.flow(problem, 4.0, tolerance=1e-3)


# the ledger


def test_identities_close_at_second_order():
    left = {}
    for n in (32, 64, 128):
        problem = two_gaussians(n)
        x, y = problem.grid.cell_centres()
        sigma = 1 + 0.5 * np.cos(np.pi * x) * np.cos(np.pi * y)
        ledger = pmapde.flow(problem, 1.0, tolerance=1e-4, ledger="full", comparator=sigma, throw=True).ledger
        left[n] = abs(ledger["identity"][-1]), abs(ledger["evi"][-1])
        assert ledger["missed"].max() == 0
        assert ledger.initial_bregman == ledger.half_cost
        assert ledger["bregman"][0] == pytest.approx(ledger.half_cost, rel=40 / n**2)
        middle = 0.5 * (ledger["kl_comparator"][1:] + ledger["kl_comparator"][:-1])
        assert np.abs(ledger["slack"][1:] / middle - 1).max() < 0.05
        assert (ledger["slack"][1:] > 0).all()
    assert left[128][0] < 1e-3 and left[128][1] < 1e-3
    for coarse, fine in ((32, 64), (64, 128)):
        assert 1.8 < math.log2(left[coarse][0] / left[fine][0]) < 2.3
        assert 1.8 < math.log2(left[coarse][1] / left[fine][1]) < 2.3


def test_what_the_step_leaves_over_in_the_identity_falls_with_it():
    problem = two_gaussians(32)
    end = pmapde.flow(problem, 0.05, tolerance=1e-6, ledger="full").ledger["identity"][-1]  # the grid's part
    for method, order in ((BackwardEuler, 1.7), (TRBDF2, 1.8), (ESDIRK3, 2.8)):
        left = []
        for count in (20, 40):
            run = pmapde.flow(problem, 0.05, method(step=0.05 / count), tolerance=1e-8, ledger="full", throw=True)
            left.append(abs(run.ledger["identity"][-1] - end))
        assert math.log2(left[0] / left[1]) > order, method.__name__


def test_identity_fails_with_a_wrong_map(monkeypatch):
    problem = two_gaussians(64)
    right = pmapde.flow(problem, 1.0, tolerance=1e-3, ledger="full").ledger

    def wrong(self, *arguments, original=Bookkeeper._steady):
        original(self, *arguments)
        limit = self._limits["source"]
        self._limits["source"] = SmoothPotential(self.problem, 0.8 * limit.phi)

    monkeypatch.setattr(Bookkeeper, "_steady", wrong)
    ledger = pmapde.flow(problem, 1.0, tolerance=1e-3, ledger="full").ledger
    assert abs(ledger["identity"][-1]) > 5 * abs(right["identity"][-1])


@pytest.mark.parametrize("shape", [(32, 32), (12, 12, 12)])
def test_both_divergences_fall_on_the_torus_and_the_bound_holds(shape):
    problem = exact.manufactured(shape, periodic=True).problem
    ledger = pmapde.flow(problem, 0.2, tolerance=1e-4, ledger="full", throw=True).ledger
    for name in ("kl_reverse", "kl_forward", "bregman"):
        assert (np.diff(ledger[name]) < 0).all(), name
    t, gap = ledger["time"][1:], (ledger["kl_reverse"] + ledger["kl_forward"])[1:]
    assert (gap <= 1.05 * ledger.half_cost / t).all()  # 5 %: the discretisation error of W2^2 on these grids
    assert (ledger["lambda_min"] > 0).all() and (ledger["lambda_max"] >= ledger["lambda_min"]).all()


@pytest.mark.parametrize("shape", [(48, 40), (14, 12, 13)])
def test_bregman_distance_from_maps(shape):
    known = exact.manufactured(shape)
    grid = known.problem.grid
    x = grid.cell_centres().reshape(grid.ndim, -1)
    phi = known.potential(x.T).reshape(shape) - known.problem.quadratic(grid.cell_centres())
    start, end = SmoothPotential(known.problem, 0 * phi), SmoothPotential(known.problem, phi)
    density = known.problem.source_values
    assert start.bregman(end, density)[0] == pytest.approx(known.cost / 2, rel=1e-4)
    assert abs(end.bregman(end, density)[0]) < 1e-15
    inverse, _, residual = end.inverse(end.image, np.full(x.shape, 0.5))
    assert np.abs(inverse - x).max() < 1e-11 and residual.max() <= 1e-12
    # a small displacement: half the quadratic form of the Hessian, without cancellation
    near = SmoothPotential(known.problem, phi * (1 + 1e-5))
    tiny = near.bregman(end, density)[0]
    assert tiny == pytest.approx(1e-10 * 2 * SmoothPotential(known.problem, phi).bregman(
        SmoothPotential(known.problem, phi * 1.01), density)[0] / (2 * 1e-4), rel=0.05)


@pytest.mark.filterwarnings("ignore::pmapde.ImbalanceWarning")
def test_cells_whose_map_was_not_inverted_are_warned_about():
    rough = pmapde.TransportProblem(np.exp(np.random.default_rng(0).standard_normal((24, 24)) * 1.5),
                                    np.ones((24, 24)), floor=1e-3)
    with pytest.warns(RuntimeWarning, match="could not be inverted") as caught:
        run = pmapde.flow(rough, 0.05, tolerance=1e-2, ledger="full")
    assert run.ledger["missed"].max() > 1e-3
    assert any(warning.filename == __file__ for warning in caught)
    for name in ("bregman", "gap", "identity", "evi"):
        assert np.isfinite(run.ledger[name]).all(), name


def test_identities_are_nan_where_there_is_nothing_to_compare_with():
    same = pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16)))
    ledger = pmapde.flow(same, 1.0, ledger="full", throw=True).ledger
    assert np.isnan(ledger["identity"][1:]).all() and abs(ledger["gap"]).max() < 1e-14
    problem = two_gaussians(16)
    ledger = pmapde.flow(problem, 0.1, ledger="full", comparator=np.ones((16, 16)), throw=True).ledger  # D_0 = 0
    assert np.isnan(ledger["evi"][1:]).all() and np.isfinite(ledger["identity"]).all()
    settled = pmapde.solve(problem, tolerance=1e-10).potential
    ledger = pmapde.flow(problem, 0.1, start=settled, ledger="full", throw=True).ledger
    assert np.isnan(ledger["identity"][1:]).all()


# ends


def test_flow_ends_at_the_solution():
    problem = two_gaussians(64)
    solution = pmapde.solve(problem, tolerance=1e-9)
    run = pmapde.flow(problem, 3.0, tolerance=1e-4, exact_map=None, ledger=None)
    assert half_range(run.displacement_potentials[-1] - solution.displacement_potential) < 1e-8
    assert run.drift == pytest.approx(solution.drift, abs=1e-9)
    points = np.array([[0.2, 0.3], [0.7, 0.9]])
    assert np.abs(run.map(points) - solution.map(points)).max() < 1e-7
    assert np.abs(run.map(run.inverse_map(points)) - points).max() < 1e-10


def test_the_mean_carries_the_normalising_constant():
    grid = pmapde.Grid((48, 48), [(-3, 3)] * 2)
    source = pmapde.LogDensity(lambda x: 2.5 - (x**2).sum(axis=1) / 2 + 0.3 * np.cos(x[:, 0]))
    problem = pmapde.TransportProblem(source, np.ones((48, 48)), grid=grid, target_grid=grid)
    run = pmapde.flow(problem, [60.0, 61.0], tolerance=1e-3, ledger=None)
    t = np.linspace(-3, 3, 20001)
    along = [np.trapezoid(np.exp(-t**2 / 2 + extra), t) for extra in (0.3 * np.cos(t), 0 * t)]
    exactly = 2.5 + math.log(along[0]) + math.log(along[1])
    assert run.log_evidence == pytest.approx(exactly, abs=2e-3)
    gained = (run.displacement_potentials[1] - run.displacement_potentials[0]).mean() - problem.source_log_mass
    assert gained == pytest.approx(-exactly, abs=2e-3)


def test_flow_can_be_continued():
    problem = two_gaussians(32)
    whole = pmapde.flow(problem, [0.01, 0.05], tolerance=1e-6, ledger=None)
    first = pmapde.flow(problem, 0.01, tolerance=1e-6, ledger=None)
    second = pmapde.flow(problem, 0.04, tolerance=1e-6, start=first.potentials[-1], ledger=None)
    assert half_range(second.potentials[-1] - whole.potentials[-1]) < 3e-6 * half_range(
        whole.displacement_potentials[-1])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two numba threads")
def test_threads_do_not_change_a_bit():
    problem = two_gaussians(136)
    runs = [pmapde.flow(problem, 1e-3, tolerance=1e-2, threads=threads) for threads in (1, 2)]
    assert np.array_equal(runs[0].potentials, runs[1].potentials)
    assert np.array_equal(runs[0].ledger["kl_reverse"], runs[1].ledger["kl_reverse"])


def test_trajectory_survives_the_disk(tmp_path):
    run = pmapde.flow(two_gaussians(24), [0.0, 0.01, 0.1], ledger="full")
    run.save(tmp_path / "run")
    again = pmapde.load(tmp_path / "run.npz")
    assert np.array_equal(again.potentials, run.potentials) and np.array_equal(again.times, run.times)
    assert again.status is run.status and str(again.ledger) == str(run.ledger)
    assert np.array_equal(again.density(1), run.density(1)) and again.summary() == run.summary()
    run.ledger.write_csv(tmp_path / "ledger.csv")
    table = np.genfromtxt(tmp_path / "ledger.csv", delimiter=",", names=True)
    assert np.array_equal(table["bregman"], run.ledger["bregman"])
    with pytest.raises(KeyError, match="no column"):
        run.ledger["kl"]


def test_a_run_stops_when_asked_and_keeps_what_it_has():
    problem = two_gaussians(32)
    seen = []
    whole = pmapde.flow(problem, 0.01, callback=lambda step: seen.append(step.time), max_seconds=None)
    assert seen == whole.history["time"].tolist()  # the last step too
    stopped = pmapde.flow(problem, [1e-3, 1.0], callback=lambda step: step.time > 0.01)
    assert stopped.status is pmapde.Status.STOPPED and stopped.times.tolist() == [1e-3]
    short = pmapde.flow(problem, 1.0, max_steps=3)
    assert short.status is pmapde.Status.MAX_STEPS and len(short.ledger) == 4 and len(short.times) == 0
    assert pmapde.flow(problem, 1.0, max_seconds=0).status is pmapde.Status.MAX_SECONDS
    with pytest.raises(pmapde.SolverError, match="MAX_STEPS") as caught:
        pmapde.flow(problem, 1.0, max_steps=3, throw=True)
    assert caught.value.solution.history["time"].size == 3


def test_a_fixed_step_that_cannot_be_solved_is_a_status():
    problem = two_gaussians(32, floor=1e-3)
    run = pmapde.flow(problem, 1.0, BackwardEuler(step=0.5, max_iterations=1))
    assert run.status is pmapde.Status.NEWTON_STALLED and not run.success
    assert len(run.times) == 0 and "NEWTON_STALLED" in str(run)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (([0.1, 0.05],), ValueError, "`times` must be increasing"), (([-1.0],), ValueError, "`times` must be increasing"),
    (([0.0],), ValueError, "must end after 0"), ((1.0, "euler"), TypeError, "`method` must be ESDIRK3"),
    ((1.0, pmapde.PseudoTransient()), TypeError, "`method` must be ESDIRK3"),
])
def test_bad_arguments_of_flow_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pmapde.flow(two_gaussians(16), *arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"tolerance": 0.0}, "`tolerance` must be between"), ({"ledger": "all"}, "`ledger` must be"),
    ({"start": np.zeros((4, 4))}, "`start` must be finite values"),
    ({"start": -np.ones((16, 16)) * np.linspace(-1, 1, 16) ** 2}, "`start` must be a strictly convex"),
    ({"comparator": np.ones((16, 16))}, "`comparator` needs the maps"),
    ({"ledger": "full", "comparator": np.ones((8, 8))}, "shape"),
    ({"ledger": None, "comparator": np.ones((16, 16))}, "`comparator` is for the ledger"),
    ({"ledger": None, "exact_map": lambda x: x}, "`exact_map` is for the ledger"),
    ({"exact_map": lambda x: x[:3]}, "`exact_map` must take points"), ({"max_steps": 0}, "`max_steps` must be"),
    ({"max_seconds": math.nan}, "`max_seconds` must be"), ({"tolerance": True}, "`tolerance` must be between"),
    ({"ledger": "full", "comparator": np.eye(16)}, "`comparator` is zero in 240"),
])
def test_bad_settings_of_flow_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pmapde.flow(two_gaussians(16), 1.0, **arguments)


def test_bad_integrators_are_refused():
    with pytest.raises(ValueError, match="`step` must be a positive time"):
        TRBDF2(step=-1.0)
    with pytest.raises(ValueError, match="`max_iterations`"):
        ESDIRK3(max_iterations=0)
    with pytest.raises(TypeError, match="`linear` must be"):
        ESDIRK3(linear="amg")
