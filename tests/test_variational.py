"""Posteriors by the Brenier map: evidence, moments, draws, weights, refusals."""
import importlib.util
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from bench_posterior import exact as by_quadrature
from scipy import integrate, stats

import pmapde
from pmapde.importance import pareto_k
from pmapde.locate import Locator
from pmapde.models import MODELS
from pmapde.samples import uniforms
from pmapde.support import log_masses

EVIDENCE = {"banana": 0.0, "two_modes": 0.0, "funnel": np.log(2 * stats.norm.cdf(1) - 1)}
"""Logarithms of the masses, known exactly."""


@pytest.fixture(scope="module")
def fits():
    return {}


def fitted(fits, name):
    if name not in fits:
        fits[name] = MODELS[name].posterior().fit()
    return fits[name]


@pytest.mark.parametrize("name", [*EVIDENCE, "eight_schools", pytest.param("rings", marks=pytest.mark.slow)])
def test_models_meet_the_stated_errors(fits, name):
    posterior, model = fitted(fits, name), MODELS[name]
    assert posterior.success, str(posterior)
    evidence, mean, sd = by_quadrature(model, posterior)
    if name in EVIDENCE:
        assert abs(evidence - EVIDENCE[name]) < 1e-4
    error = abs(posterior.log_evidence - evidence)
    assert error < (1e-3 if len(sd) == 2 else 1e-2) and error < posterior.log_evidence_error + 2e-5
    assert (np.abs(posterior.mean - mean) < 5e-4 * sd).all()
    np.testing.assert_allclose(np.sqrt(np.diag(posterior.covariance)), sd, rtol=1e-3)
    draws = posterior.sample(2**14, sequence="sobol")  # the sampler itself, not the quadrature
    assert (np.abs(draws.mean(axis=0) - mean) < 5e-3 * sd).all()
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=5e-3)
    assert posterior.pareto_k < 0.5 and 0 < posterior.tail_mass < 5e-5 and abs(posterior.kl_gap) < 5e-3


def test_independent_draws_have_the_marginals(fits):
    posterior = fitted(fits, "banana")
    draws = posterior.sample(20_000, np.random.default_rng(1))
    assert stats.kstest(draws[:, 0], stats.norm(0, 2).cdf).pvalue > 1e-3
    assert stats.kstest(draws[:, 1] - 0.3 * draws[:, 0] ** 2, stats.norm.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(draws, posterior.sample(20_000, np.random.default_rng(1)))


def test_weighted_draws_are_unbiased_whatever_the_map():
    """A map on very few cells: its own moments are off, the weighted ones and the mean weight are not."""
    model = MODELS["banana"]
    rough = model.posterior(max_cells=24**2, reference="gaussian").fit()  # one grid only: the first
    x, log_weights = rough._sampler.importance(uniforms(2**17, 2, np.random.default_rng(0), "sobol"))
    weights = np.exp(log_weights)
    assert abs(np.mean(weights) - 1) < 0.01
    assert abs(x[:, 0].std() - 2) > 0.1
    assert abs((weights * x[:, 1]).sum() / weights.sum() - 1.2) < 0.02
    assert abs(np.sqrt((weights * x[:, 0]**2).sum() / weights.sum()) - 2) < 0.02


def test_marginals_integrate_to_one_and_are_exact(fits):
    values, density = fitted(fits, "banana").marginal(0)
    np.testing.assert_allclose(density, stats.norm(0, 2).pdf(values), atol=1e-4)
    values, density = fitted(fits, "eight_schools").marginal(1)
    assert abs(density.sum() * (values[1] - values[0]) - 1) < 1e-9 and (density >= 0).all()


def test_gap_decays_along_the_flow(fits):
    posterior = fitted(fits, "two_modes")
    ledger = posterior.decay([0.1, 1.0, 4.0], cells=32).ledger
    gap = ledger["kl_reverse"]
    assert (np.diff(gap) < 0).all() and gap[-1] < 1e-2 * gap[0]


def test_whitening_finds_what_is_far_narrow_and_correlated():
    covariance = np.array([[1e-4, 0.9e-2], [0.9e-2, 1.0]])
    precision = np.linalg.inv(covariance)

    def log_density(x):
        z = x - [100.0, -50.0]
        return -0.5 * np.einsum("ni,ij,nj->n", z, precision, z)
    posterior = pmapde.BrenierPosterior(log_density).fit()
    assert posterior.success
    error = abs(posterior.log_evidence - np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(covariance)[1])
    assert error < 1e-4 and error <= 1.01 * posterior.log_evidence_error  # what is said is what it is
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-3)


def test_hard_bounds_are_faces_of_the_box():
    def half(x):
        return -x[:, 0] - 0.5 * (x[:, 1] - x[:, 0]) ** 2
    posterior = pmapde.BrenierPosterior(half, bounds=[(0, None), (None, None)]).fit()
    assert posterior.success and posterior.summary()["reference"] == "uniform"
    assert abs(posterior.log_evidence - 0.5 * np.log(2 * np.pi)) < 1e-3
    draws = posterior.sample(10_000, np.random.default_rng(2))
    assert draws[:, 0].min() >= 0 and stats.kstest(draws[:, 0], stats.expon.cdf).pvalue > 1e-3


def student(degrees, dimension=2):
    return lambda x: -0.5 * (degrees + dimension) * np.log1p((x**2).sum(axis=1) / degrees)


def test_heavy_tails_work_or_are_refused_with_the_reason():
    heavy = pmapde.BrenierPosterior(student(5)).fit()
    assert heavy.success and abs(heavy.log_evidence - np.log(2 * np.pi)) < 1e-3
    heavier = pmapde.BrenierPosterior(student(3.8)).fit()  # more points of the quadrature, which reach farther
    assert heavier.success and abs(heavier.log_evidence_quadrature - np.log(2 * np.pi)) < 1e-6
    assert pmapde.BrenierPosterior(student(8, 3), start=[0, 0, 0]).fit().success
    for degrees, start in ((1, [0, 0]), (3, [0, 0]), (5, [0, 0, 0])):
        with pytest.raises(ValueError, match="tails are too heavy"):
            pmapde.BrenierPosterior(student(degrees, len(start)), start=start).fit()
    with pytest.raises(ValueError, match="improper or its tails"):
        pmapde.BrenierPosterior(lambda x: np.zeros(len(x))).fit()


def bent(x):
    """A banana in three dimensions, whose tail is longest along one axis."""
    return -x[:, 0]**2 / 8 - (x[:, 1] - 0.3 * x[:, 0]**2)**2 / 2 - x[:, 2]**2 / 2


def test_points_are_added_along_the_axis_that_needs_them():
    _, _, log_mass, outside = located(bent, start=[0, 0, 0])
    assert abs(log_mass - np.log(2 * (2 * np.pi)**1.5)) < 2e-4  # observed 9e-5
    assert 5e-6 < outside < 1.2e-5


@pytest.mark.slow
def test_a_bent_density_in_three_dimensions():
    posterior = pmapde.BrenierPosterior(bent, start=[0, 0, 0], tail=1e-4, max_seconds=math.inf).fit()
    assert posterior.success, str(posterior)
    assert abs(posterior.log_evidence - np.log(2 * (2 * np.pi)**1.5)) < 2e-3
    np.testing.assert_allclose(posterior.mean, [0, 1.2, 0], atol=5e-3)


def test_finer_grids_start_from_coarser_ones(monkeypatch):
    solutions = []
    built = pmapde.Solution.build.__func__

    def build(cls, *arguments):
        solutions.append(built(cls, *arguments))
        return solutions[-1]
    monkeypatch.setattr(pmapde.Solution, "build", classmethod(build))
    assert MODELS["two_modes"].posterior(tolerance=1e-5).fit().success
    first, *others = [solution.stats["newton_iterations"] for solution in solutions]
    assert len(others) >= 1 and max(others) <= 4 < first, (first, others)


def test_unresolved_is_said_and_raised():
    posterior = MODELS["banana"].posterior(tolerance=1e-9, max_cells=10_000).fit()
    assert posterior.status is pmapde.Status.NOT_RESOLVED and not posterior.success
    with pytest.raises(pmapde.SolverError, match="NOT_RESOLVED"):
        posterior.throw()


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (dict(log_density=3), TypeError, "`log_density` must be a function"),
    (dict(start=[0.0]), ValueError, "`start` must be two or three"),
    (dict(start=[0.0, np.nan]), ValueError, "`start`"),
    (dict(start=np.zeros((0, 2))), ValueError, "`start` must be two or three .* or rows of them"),
    (dict(start=np.zeros((1, 2, 2))), ValueError, "`start` must be two or three"),
    (dict(start=[[0, 0], [1]]), ValueError, "`start` must be numbers"),
    (dict(start=[[0.5, 0.5], [2, 2]], bounds=[(0, 1)] * 2), ValueError, "`start` must be within `bounds`"),
    (dict(scale=-1.0), ValueError, "`scale` must be positive"),
    (dict(bounds=[(0, 1), (2, 1)]), ValueError, "`bounds` must have lower < upper"),
    (dict(bounds=[(0, 1)]), ValueError, "`bounds` must be two or three pairs"),
    (dict(start=[0, 0, 0], bounds=[(0, 1), (0, 1)]), ValueError, "`bounds` must be one pair for each of the 3"),
    (dict(reference="cauchy"), ValueError, "`reference` must be"),
    (dict(tail=0.5), ValueError, "`tail` must be between"),
    (dict(tolerance=2.0), ValueError, "`tolerance`"),
    (dict(start="ab"), ValueError, "`start` must be numbers"),
    (dict(scale=[1, 2, 3]), ValueError, "`scale` must be"),
    (dict(tail="x"), ValueError, "`tail` must be"),
    (dict(max_cells=-3), ValueError, "`max_cells` must be"),
    (dict(max_cells=10), ValueError, "`max_cells` must be a number of cells, at least 256"),
    (dict(max_seconds=0), ValueError, "`max_seconds` must be a positive time"),
])
def test_bad_arguments_get_one_sentence(arguments, error, message):
    arguments = {"log_density": MODELS["banana"].log_density, **arguments}
    with pytest.raises(error, match=message):
        pmapde.BrenierPosterior(**arguments)


@pytest.mark.parametrize(("log_density", "message"), [
    (lambda x: np.zeros((len(x), 2)), "must return shape"),
    (lambda x: -(x**2).sum(axis=1) + 0j, "must return real numbers, got dtype complex128"),
    (lambda x: ["a"] * len(x), "must return real numbers"),
    (lambda x: np.full(len(x), np.nan), "must be a number or -inf"),
    (lambda x: np.full(len(x), -np.inf), "-inf at the start"),
])
def test_bad_densities_get_one_sentence(log_density, message):
    with pytest.raises(ValueError, match=message):
        pmapde.BrenierPosterior(log_density).fit()


def test_drawing_needs_a_fit_and_a_generator(fits):
    with pytest.raises(ValueError, match="not fitted yet"):
        pmapde.BrenierPosterior(MODELS["banana"].log_density).sample(3, np.random.default_rng(1))
    with pytest.raises(TypeError, match="`rng` must be a numpy.random.Generator"):
        fitted(fits, "banana").sample(3, 5)
    with pytest.raises(ValueError, match="`sequence` must be"):
        fitted(fits, "banana").sample(3, np.random.default_rng(1), sequence="halton")


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_finds_the_shape(k):
    u = np.random.default_rng(3).random(200_000)
    assert abs(pareto_k(-k * np.log(u)) - k) < 0.1
    assert abs(pareto_k(1000 - k * np.log(u)) - pareto_k(-k * np.log(u))) < 1e-9  # any normalisation
    assert np.isnan(pareto_k(np.zeros(3)))


@pytest.mark.skipif(importlib.util.find_spec("arviz") is None, reason="arviz is not installed")
def test_draws_go_to_arviz(fits):
    data = fitted(fits, "banana").to_arviz(100, np.random.default_rng(4), ["a", "b"])
    assert data.posterior["a"].shape == (1, 100)


def test_command_writes_draws_figures_and_summary(tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-m", "pmapde", "posterior", "two_modes", "--n", "500", "--out", str(out)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"samples.csv", "solution.npz", "decay.csv", "posterior.png",
                                                     "marginals.png", "decay.png", "summary.json"}
    assert np.loadtxt(out / "samples.csv", delimiter=",", skiprows=1).shape == (500, 2)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["success"] and abs(summary["log_evidence"]) < 1e-3 and summary["names"] == ["x", "y"]
    wrong = subprocess.run([sys.executable, "-m", "pmapde", "posterior", "bananas", "--out", str(out)],
                           capture_output=True, text=True)
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr


def normal(x, mean, sd):
    return stats.norm.logpdf(x, mean, sd).sum(axis=1)


def located(log_density, **arguments):
    posterior = pmapde.BrenierPosterior(log_density, **arguments)
    locator = Locator(log_density, posterior.start, posterior.scale, posterior.bounds)
    return locator, *locator.box(posterior.tail)


@pytest.mark.parametrize(("at", "sd"), [(15.0, 0.5), (60.0, 1.0)])
def test_modes_far_from_the_start_are_seen(at, sd):
    locator, _, log_mass, _ = located(lambda x: np.logaddexp(normal(x, 0, 1), normal(x, [at, 0], sd)))
    assert len(locator.modes) == 2 and abs(log_mass - np.log(2)) < 1e-9


def cap(x, centre, radius):
    """A paraboloid of unit mass, zero beyond its radius."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(2 / np.pi / radius**2 * (1 - ((x - centre) ** 2).sum(axis=1) / radius**2).clip(0))


def test_modes_with_zeros_around_them_are_found_from_a_point_of_theirs():
    def far(x):
        return np.logaddexp(cap(x, [0, 0], 1), cap(x, [30, 7.3], 0.2))

    def near(x):
        return np.logaddexp(cap(x, [0, 0], 1), cap(x, [4, 0], 0.5))
    alone, *_ = located(far)
    locator, _, log_mass, _ = located(far, start=[[0, 0], [30, 7.3]])
    assert len(alone.modes) == 1 and len(locator.modes) == 2  # the second is between the points that are looked at
    assert 1e-3 < abs(log_mass - np.log(2)) < 3 * locator.error < 0.01  # said, though a few points are all it has
    posterior = pmapde.BrenierPosterior(near, start=[[0, 0], [4, 0]], max_cells=128**2).fit()
    assert posterior.solution.success and len(posterior.modes) == 2
    assert abs(posterior.log_evidence - np.log(2)) < posterior.log_evidence_error < 0.05
    np.testing.assert_allclose(posterior.mean, [2, 0], atol=0.01)
    x = posterior.sample(2000, np.random.default_rng(0))
    assert abs((x[:, 0] > 2).mean() - 0.5) < 0.04 and np.isfinite(near(x)).all()


def test_every_start_needs_the_density_around_it():
    with pytest.raises(ValueError, match=r"-inf at the start \[50.0, 0.0\] and everywhere around it"):
        pmapde.BrenierPosterior(lambda x: cap(x, [0, 0], 1), start=[[0, 0], [50, 0]]).fit()


@pytest.mark.parametrize(("at", "sd"), [((3, 0), 1e-3), ((3, 0), 1e-6), ((30, 7), 1e-3)])
def test_a_known_mode_that_no_quadrature_sees_is_in_the_error(at, sd):
    """A spike of half of the mass, on the flank of another mode or away from it, of any height."""
    posterior = pmapde.BrenierPosterior(lambda x: np.logaddexp(normal(x, 0, 1), normal(x, at, sd)),
                                        start=[(0, 0), at], max_cells=128**2).fit()
    assert not posterior.success and len(posterior.modes) == 2
    assert abs(posterior.log_evidence - np.log(2)) < 1.001 * posterior.log_evidence_error


def test_far_modes_that_the_quadrature_sees_are_no_error():
    """Three whose widths are those of the distances of its points, on which it is exact to nine digits."""
    def log_density(x):
        small = np.log(0.005) + np.logaddexp(normal(x, [20, 0], 1), normal(x, [0, 20], 1))
        return np.logaddexp(np.log(0.99) + normal(x, 0, 1), small)
    locator, _, log_mass, _ = located(log_density)
    assert len(locator.modes) == 3 and abs(log_mass) < 1e-7 and locator.unseen < 1e-5
    posterior = pmapde.BrenierPosterior(log_density).fit()
    assert posterior.success and abs(posterior.log_evidence) < posterior.log_evidence_error


def test_any_value_between_is_a_gradient_at_a_kink():
    posterior = pmapde.BrenierPosterior(lambda x: -np.abs(x).sum(axis=1), gradient=lambda x: np.where(x > 0, -1.0, 1.0),
                                        max_cells=64**2).fit()
    assert abs(posterior.log_evidence_quadrature - np.log(4)) < 1e-3
    with pytest.raises(ValueError, match="`gradient` is not that of `log_density`"):
        pmapde.BrenierPosterior(lambda x: -np.abs(x).sum(axis=1), gradient=lambda x: np.where(x > 0, 1.0, -1.0)).fit()


def test_mode_too_narrow_for_the_grid_is_no_success():
    posterior = pmapde.BrenierPosterior(lambda x: np.logaddexp(normal(x, 0, 1), normal(x, [30, 7], 0.05)),
                                        max_cells=128**2).fit()
    assert not posterior.success and posterior.log_evidence_error > 0.1
    assert abs(posterior.log_evidence_quadrature - np.log(2)) < 0.03


@pytest.mark.parametrize("at", [(80, 0), (30, 74)])
def test_equal_modes_eighty_scales_apart(at):
    """The cells go along the axis on which the modes are narrow, the quadrature's points too."""
    posterior = pmapde.BrenierPosterior(lambda x: np.logaddexp(normal(x, 0, 1), normal(x, at, 1))).fit()
    assert posterior.success and len(posterior.modes) == 2, str(posterior)
    assert abs(posterior.log_evidence - np.log(2)) < 2 * posterior.log_evidence_error < 2e-3
    np.testing.assert_allclose(posterior.mean, np.array(at) / 2, atol=1e-3 * np.linalg.norm(at))


def test_time_limit_is_a_status():
    def slow(x):
        time.sleep(0.01)
        return normal(x, 0, 1)
    posterior = pmapde.BrenierPosterior(slow, max_seconds=1e-3).fit()
    assert posterior.status is pmapde.Status.MAX_SECONDS and not posterior.success
    assert abs(posterior.log_evidence_quadrature) < 1e-6 and posterior.log_evidence_error > 1e-3


def test_gradient_saves_calls_and_is_checked():
    calls, covariance = [], np.array([[2.0, 1.2], [1.2, 1.0]])
    inverse = np.linalg.inv(covariance)

    def log_density(x):
        calls.append(len(x))
        return -0.5 * ((x - 3) @ inverse * (x - 3)).sum(axis=1)
    plain = pmapde.BrenierPosterior(log_density).fit()
    without = len(calls)
    calls.clear()
    posterior = pmapde.BrenierPosterior(log_density, gradient=lambda x: -(x - 3) @ inverse).fit()
    assert posterior.success and len(calls) < 0.8 * without
    np.testing.assert_allclose(posterior.mean, plain.mean, atol=1e-6)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-3)
    with pytest.raises(ValueError, match="`gradient` is not that of `log_density`"):
        pmapde.BrenierPosterior(log_density, gradient=lambda x: (x - 3) @ inverse).fit()
    with pytest.raises(ValueError, match="`gradient` of a LogDensity must return shape"):
        pmapde.BrenierPosterior(log_density, gradient=lambda x: x[:, 0]).fit()
    with pytest.raises(TypeError, match="`gradient` must be a function"):
        pmapde.BrenierPosterior(log_density, gradient=1.0)


def test_nothing_to_be_had_before_the_fit():
    with pytest.raises(ValueError, match="not fitted yet"):
        pmapde.BrenierPosterior(lambda x: normal(x, 0, 1)).success  # noqa: B018


def test_bounds_far_beyond_the_mass():
    posterior = pmapde.BrenierPosterior(lambda x: normal(x, [1e3, 2e3], 1), bounds=[(-1e6, 1e6)] * 2).fit()
    assert posterior.success and abs(posterior.log_evidence) < 1e-3
    np.testing.assert_allclose(posterior.mean, [1e3, 2e3], atol=1e-3)


def test_parameters_of_very_different_scales():
    posterior = pmapde.BrenierPosterior(lambda x: normal(x, 0, [1e8, 1e-8]), scale=[1e8, 1e-8]).fit()
    assert posterior.success and abs(posterior.log_evidence) < 1e-3


def test_box_reaches_the_edge_of_a_density_that_jumps_to_zero():
    locator, _, log_mass, outside = located(lambda x: np.where(x[:, 0] > -0.5, normal(x, 0, 1), -np.inf))
    assert outside < 1e-4 and locator.error < 1e-3 and abs(log_mass - stats.norm.logcdf(0.5)) < 1e-3


def test_infinite_weights_are_not_good_ones():
    assert pareto_k(np.r_[np.nan, np.zeros(100)]) == pareto_k(np.r_[np.inf, np.zeros(100)]) == np.inf


def test_bad_draws_and_marginals_get_one_sentence(fits):
    posterior = fitted(fits, "banana")
    for n in (-1, 2.5, None):
        with pytest.raises(ValueError, match="`n` must be"):
            posterior.sample(n, np.random.default_rng(1))
    with pytest.raises(ValueError, match="`axis` must be"):
        posterior.marginal(-1)
    with pytest.raises(ValueError, match="`points` must be"):
        posterior.marginal(0, 1)
    with pytest.raises(ValueError, match="`cells` must be a whole number"):
        posterior.decay([1.0], cells=3)


def triangle(x):
    """Dirichlet(2, 1, 1), the last share left out: mean (1/2, 1/4), variances 1/20, 3/80, evidence 1/6."""
    inside = (x[:, 0] > 0) & (x[:, 1] > 0) & (x.sum(axis=1) < 1)
    return np.where(inside, np.log(np.maximum(x[:, 0], 1e-300)), -np.inf)


EDGES = {  # log density, start, log evidence, mean, variances
    "disc": (lambda x: np.where((x**2).sum(axis=1) < 1, 0.0, -np.inf), (0, 0), np.log(np.pi), (0, 0), (1 / 4, 1 / 4)),
    "triangle": (triangle, (0.3, 0.3), -np.log(6), (1 / 2, 1 / 4), (1 / 20, 3 / 80)),
    "quadrant": (lambda x: np.where(x.min(axis=1) > 0, normal(x, 0, 1), -np.inf), (1, 1), -np.log(4),
                 (np.sqrt(2 / np.pi),) * 2, (1 - 2 / np.pi,) * 2),
    "order": (lambda x: np.where(x[:, 0] < x[:, 1], normal(x, 0, 1), -np.inf), (0, 1), -np.log(2),
              (-np.pi**-0.5, np.pi**-0.5), (1 - 1 / np.pi,) * 2),
    "square": (lambda x: np.where(np.abs(x).max(axis=1) < 1, 0.0, -np.inf), (0, 0), np.log(4), (0, 0), (1 / 3,) * 2),
    "two squares": (lambda x: np.where(np.abs(np.abs(x[:, 0]) - 2) + np.abs(x[:, 1]) < 1, 0.0, -np.inf), (2, 0),
                    np.log(4), (0, 0), (4 + 1 / 6, 1 / 6)),
    "ball": (lambda x: np.where((x**2).sum(axis=1) < 1, 0.0, -np.inf), (0, 0, 0), np.log(4 * np.pi / 3), (0, 0, 0),
             (1 / 5,) * 3)}


@pytest.mark.parametrize("name", EDGES)
def test_densities_that_jump_to_zero(name):
    """Edges that no bounds describe: mass continued beyond them for the map, draws from there rejected."""
    log_density, start, evidence, mean, variances = EDGES[name]
    posterior = pmapde.BrenierPosterior(log_density, start=start).fit()
    assert posterior.success, str(posterior)
    error = abs(posterior.log_evidence - evidence)
    assert error < posterior.tolerance and error < 2 * posterior.log_evidence_error  # observed at most 1.6
    assert abs(posterior.log_evidence_quadrature - evidence) < posterior.tolerance
    sd = np.sqrt(variances)
    assert (np.abs(posterior.mean - mean) < 2e-3 * sd).all()
    np.testing.assert_allclose(np.sqrt(np.diag(posterior.covariance)), sd, rtol=2e-3)
    assert 0.4 < posterior.accepted < 1 and abs(posterior.kl_gap) < 2e-3
    assert posterior.pareto_k < 0.5 or posterior.largest_weight < 1.05  # the square's weights: 0.9999 to 1.01
    draws = posterior.sample(2**14, sequence="sobol")
    assert len(draws) == 2**14 and np.isfinite(log_density(draws)).all()
    assert (np.abs(draws.mean(axis=0) - mean) < 7e-3 * sd).all()
    assert len(posterior.sample(1001, np.random.default_rng(0))) == 1001
    _, log_weights = posterior.importance(2**16, sequence="sobol")  # nothing rejected: the evidence, with no map error
    assert abs(np.log(np.exp(log_weights).mean()) - evidence) < 2e-3
    assert np.mean(log_weights > -np.inf) == pytest.approx(posterior.accepted, abs=3e-3)


def test_masses_of_cells_at_an_edge():
    """Second order in the width of the parts, wherever the edge lies in its cell, the outermost ones included."""
    def axes(axis, n):
        ends = np.linspace(-1, 1, n + 1)
        return ends, (ends[1:] + ends[:-1]) / 2, np.log(np.diff(ends))
    for radius in (0.6, 0.997, 1.2):
        def log_density(x, radius=radius):
            return np.where((x**2).sum(axis=1) < radius**2, x[:, 0], -np.inf)
        masses, values, error = log_masses(log_density, axes, (100, 80))
        exact = integrate.quad(lambda x, r=radius: 2 * np.exp(x) * min(1, np.sqrt(max(0, r**2 - x**2))), -1, 1,
                               points=(-radius, radius) if radius < 1 else None)[0]
        assert values.shape == masses.shape == (100, 80)
        found = abs(np.exp(masses).sum() / exact - 1)
        assert found < 1e-4 < abs(np.exp(values).sum() / 2000 / exact - 1)
        assert found < 3 * error < 3e-4
    assert log_masses(lambda x: x[:, 0], axes, (20, 20))[2] == 0.0


def test_marginal_whose_mean_lies_in_a_gap():
    posterior = pmapde.BrenierPosterior(EDGES["two squares"][0], start=(2, 0)).fit()
    values, density = posterior.marginal(0, 400)
    exact = np.maximum(1 - np.abs(np.abs(values) - 2), 0) / 2
    np.testing.assert_allclose(density, exact, atol=0.02)


@pytest.mark.parametrize("penalty", [1e30, 1e10, 300.0])
@pytest.mark.parametrize("normal_to", [(1.0, 0.0), (0.6, 0.8)])
def test_a_penalty_is_an_edge_too(penalty, normal_to):
    """A finite step at the mode is not taken for its curvature, and draws beyond it are rejected."""
    def log_density(x):
        return np.where(x @ normal_to > 0, 0, -penalty) + normal(x, 0, 1)
    posterior = pmapde.BrenierPosterior(log_density, start=(1, 0)).fit()
    assert posterior.success and posterior.accepted < 1, str(posterior)
    assert abs(posterior.log_evidence - np.log(0.5)) < 1e-3
    assert posterior.mean == pytest.approx(np.sqrt(2 / np.pi) * np.array(normal_to), abs=2e-3)
    assert log_density(posterior.sample(1000, np.random.default_rng(0))).min() > -50


def test_densities_of_scipy_are_taken_as_they_are():
    """They drop the axis of a single point."""
    found = pmapde.BrenierPosterior(stats.multivariate_normal([1, 2], [[1, 0.5], [0.5, 2]]).logpdf).fit()
    assert found.success and abs(found.log_evidence) < 1e-3


def test_a_start_outside_the_bounds_is_refused():
    with pytest.raises(ValueError, match="`start` must be within `bounds`"):
        pmapde.BrenierPosterior(lambda x: -x.sum(axis=1), start=[2, 2], bounds=[(0, 1)] * 2)
