"""The operator equals its plain NumPy reference and has the properties the solver relies on."""
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from reference import log_determinant

from pmapde import GridDensity, TransportProblem
from pmapde.grid import Grid
from pmapde.monge_ampere import EXTENSION, MongeAmpere
from pmapde.reductions import advanced, gradient_norm, log_ratio, moments, shifted, weighted_mean
from pmapde.threads import SERIAL_BELOW

SCHEMES = [("monotone", 2), ("centred", 2), ("centred", 3)]
BOUNDARIES = {"no-flux": (False, False, False), "periodic": (True, True, True), "mixed": (True, False, True)}


def operator(shape, scheme="monotone", periodic=False, box=None, target=None):
    grid = Grid(shape, box, periodic)
    source = GridDensity(1 + np.random.default_rng(5).random(shape), grid)
    return MongeAmpere(TransportProblem(source, GridDensity(np.ones(shape) if target is None else target, grid),
                                        grid=grid), scheme)


def random_potential(op, rng, margin=0.2):
    """Noise scaled so that the admissibility margin is ``margin``."""
    noise = rng.standard_normal(op.grid.shape) * op.quadratic.min()
    return noise * (1 - margin) / (1 - op.margin(noise))


def smooth_potential(grid, strength=0.3):
    """Non-separable, periodic and even about the faces."""
    turns = [2 * np.pi * (x - lower) / length
             for x, lower, length in zip(grid.cell_centres(), grid.lower, grid.lengths)]
    scale = strength * grid.lengths.min()**2 / (2 * np.pi)**2 / grid.ndim
    return scale * (np.prod(np.cos(turns), axis=0) + 0.5 * np.cos(turns[0]) + 0.3 * np.cos(turns[1]))


def box_of(ndim):
    return [(0.0, 1.0), (-1.0, 0.4), (2.0, 2.7)][:ndim]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
@pytest.mark.parametrize("parity", [0, 1])
def test_log_determinant_equals_the_reference(scheme, ndim, parity, boundary):
    periodic = BOUNDARIES[boundary][:ndim]
    op = operator((10 + parity, 8 - parity, 6 + parity)[:ndim], scheme, periodic, box_of(ndim))
    for seed in range(3):
        phi = random_potential(op, np.random.default_rng(seed))
        expected = log_determinant(phi, scheme, op.quadratic, op.grid.spacing, periodic)
        assert np.abs(op.log_determinant(phi) - expected).max() < 1e-12  # observed at most 2.7e-15


@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
def test_potentials_that_are_not_convex_give_nan_where_the_reference_does(scheme, ndim):
    op = operator((10, 9, 8)[:ndim], scheme)
    phi = random_potential(op, np.random.default_rng(0), margin=-1.0)
    expected = log_determinant(phi, scheme, op.quadratic, op.grid.spacing, op.grid.periodic)
    bad = np.isnan(expected)
    assert 0 < bad.sum() < bad.size
    assert np.array_equal(np.isnan(op.log_determinant(phi)), bad)
    assert op.margin(phi) < 0


@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
def test_nan_in_the_potential_survives_in_residual_and_margin(scheme, ndim):
    op = operator((10, 9, 8)[:ndim], scheme)
    phi = np.zeros(op.grid.shape)
    cell = (4,) * ndim
    phi[cell] = np.nan
    touched = np.zeros(phi.shape, bool)
    touched[(slice(3, 6),) * ndim] = True
    nan = np.isnan(op.residual(phi))
    assert nan[cell]
    assert nan[touched].sum() >= 5
    assert not nan[~touched].any()
    assert not op.margin(phi) >= 0  # "admissible" must not come out of NaN


def rotated(condition, angle):
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s], [s, c]])
    return rotation @ np.diag([np.sqrt(condition), 1 / np.sqrt(condition)]) @ rotation.T


def error_on_quadratic(op, matrix):
    """Largest error of the log determinant of ``x'Ax/2`` two cells away from the boundary."""
    x = op.grid.cell_centres() - 0.5
    phi = 0.5 * np.einsum("i...,ij,j...->...", x, matrix - np.eye(len(matrix)), x)
    inner = (slice(2, -2),) * x.shape[0]
    return np.abs(op.log_determinant(phi)[inner] - np.linalg.slogdet(matrix)[1]).max()


def test_monotone_scheme_is_exact_on_quadratics_of_condition_up_to_5_8_in_any_orientation():
    op = operator((9, 9))
    angles = np.pi * np.arange(60) / 60
    worst = max(error_on_quadratic(op, rotated(condition, angle))
                for condition in (1.0, 2.0, 4.0, 5.8) for angle in angles)
    assert worst < 1e-12  # observed 1.1e-14
    beyond = max(error_on_quadratic(op, rotated(8.0, angle)) for angle in angles)
    assert beyond > 1e-2  # observed 2.4e-2 (8e-4 at 6.2): beyond the bound it is not


@pytest.mark.parametrize("ndim", [2, 3])
def test_centred_scheme_is_exact_on_every_convex_quadratic(ndim):
    root = np.random.default_rng(1).standard_normal((ndim, ndim))
    matrix = root @ root.T + 0.05 * np.eye(ndim)
    assert np.linalg.cond(matrix) > 8
    assert error_on_quadratic(operator((8,) * ndim, "centred"), matrix) < 1e-11  # observed 3.9e-14


def largest_fall(op, periodic, rng):
    """Largest fall of the log determinant at cells whose own value stays while others are raised."""
    fall = -np.inf
    for _ in range(20):
        phi = random_potential(op, rng)
        rise = np.where(rng.random(phi.shape) < 0.5, rng.exponential(size=phi.shape), 0.0) * op.quadratic.max()
        still = rise == 0
        fall = max(fall, np.max((op.log_determinant(phi) - op.log_determinant(phi + rise))[still], initial=-np.inf,
                                where=~np.isnan(op.log_determinant(phi + rise))[still]))
    return fall


@pytest.mark.parametrize("periodic", [False, True])
def test_monotone_scheme_never_falls_when_neighbours_rise(periodic):
    rng = np.random.default_rng(2)
    assert largest_fall(operator((12, 11), "monotone", periodic), periodic, rng) < 1e-12  # observed 0
    assert largest_fall(operator((12, 11), "centred", periodic), periodic, rng) > 0.1  # it is not: observed 2.6


def test_monotone_scheme_never_falls_where_the_potential_is_lowered():
    op, rng = operator((12, 11)), np.random.default_rng(3)
    for _ in range(20):
        phi = random_potential(op, rng)
        cell = tuple(rng.integers(n) for n in phi.shape)
        lowered = phi.copy()
        lowered[cell] -= rng.exponential() * op.quadratic.max()
        assert op.log_determinant(lowered)[cell] >= op.log_determinant(phi)[cell]


def test_monotone_log_determinant_is_concave():
    op, rng = operator((12, 11)), np.random.default_rng(4)
    excess, control = -np.inf, -np.inf
    for _ in range(20):
        one, other = random_potential(op, rng), random_potential(op, rng)
        t = rng.random()
        values = [op.log_determinant(phi) for phi in (one, other, t * one + (1 - t) * other)]
        excess = max(excess, (t * values[0] + (1 - t) * values[1] - values[2]).max())
        control = max(control, (t * np.exp(values[0]) + (1 - t) * np.exp(values[1]) - np.exp(values[2])).max())
    assert excess < 1e-12  # observed -5e-7
    assert control > 1e-2  # the determinant itself is not concave: observed 0.31


@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
def test_the_extension_is_the_residual_inside_its_bounds_and_finite_everywhere(scheme, ndim):
    op, rng = operator((12, 11, 9)[:ndim], scheme), np.random.default_rng(11)
    for margin in (0.6, 0.2, -1.0, -30.0):
        phi = random_potential(op, rng, margin)
        residual = op.residual(phi)
        extended = op.evaluate(phi, extend=True)
        inside = (residual >= EXTENSION[0]) & (residual <= EXTENSION[1])
        assert np.array_equal(extended.residual[inside], residual[inside])
        assert extended.extended == (~inside).sum()
        assert np.isfinite(extended.residual).all() and np.isfinite(extended.weights).all()
        below, above = residual < EXTENSION[0], residual > EXTENSION[1]
        # tangents lie above a concave function
        assert (extended.residual >= residual - 1e-12)[below | above].all()
        assert (extended.residual[~inside & ~above] < 0).all() and (extended.residual[above] > 0).all()
        if scheme == "monotone":
            assert (extended.weights >= 0).all()


@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
def test_weights_of_the_extension_are_those_of_a_tangent(scheme, ndim):
    """Of degree one: the extension is linear along rays, ``E(s M) = E(M) + (s - 1) W M``, where its policy stays."""
    op = operator((10, 9, 8)[:ndim], scheme)
    wanted = op.problem.source_values  # uniform target
    matrix = op.quadratic * 3.0  # u = 3 q: a determinant of 3^d, above the bound everywhere
    phi = 2.0 * op.problem.quadratic(op.grid.cell_centres())
    value = op.evaluate(phi, extend=True)
    inner = (slice(2, -2),) * ndim
    expected = np.log(2.0) - ndim + ndim * (3.0**ndim / (2.0 * wanted)) ** (1 / ndim)
    assert np.allclose(value.residual[inner], expected[inner])
    traced = sum(weight * (matrix * offset**2).sum() for weight, offset in zip(value.weights, op.offsets))
    assert np.allclose(traced[inner], (expected + ndim - np.log(2.0))[inner])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two numba threads")
@pytest.mark.parametrize(("scheme", "shape"), [("monotone", (160, 131)), ("centred", (131, 160)),
                                               ("centred", (30, 25, 31))])
def test_threads_do_not_change_a_bit(scheme, shape):
    assert np.prod(shape) > SERIAL_BELOW
    op = operator(shape, scheme, target=2 + np.sin(np.arange(np.prod(shape)) / 50).reshape(shape))
    phi = random_potential(op, np.random.default_rng(6), margin=0.6)
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            stencil = op.linearise(phi, 0.5)
            results.append([op.log_determinant(phi), op.residual(phi), stencil.weights, stencil.drift,
                            stencil.apply(phi), np.array(op.margin(phi))])
    finally:
        numba.set_num_threads(before)
    for serial, parallel in zip(*results):
        assert np.isfinite(serial).all()
        assert np.array_equal(serial, parallel)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_monotone_linearisation_is_an_m_matrix(boundary):
    largest = {}
    for scheme in ("monotone", "centred"):
        op = operator((12, 11), scheme, BOUNDARIES[boundary][:2])
        matrix = op.linearise(random_potential(op, np.random.default_rng(7))).matrix().toarray()
        assert np.abs(matrix.sum(axis=1)).max() < 1e-10 * np.abs(matrix).max()  # constants: observed 1.3e-16
        largest[scheme] = (matrix - np.diag(np.diag(matrix))).max()
    assert largest["monotone"] <= 0
    assert largest["centred"] > 0


@pytest.mark.parametrize(("scheme", "shape", "rough"), [
    ("monotone", (48, 40), False), ("monotone", (48, 40), True), ("centred", (48, 40), False),
    ("centred", (14, 12, 13), False), ("centred", (14, 12, 13), True)])
def test_linearisation_is_the_derivative_of_the_residual(scheme, shape, rough):
    grid = Grid(shape)
    turns = 2 * np.pi * grid.cell_centres()
    target = 1 + 0.3 * np.cos(turns[0] + 0.4) * np.cos(turns[1])
    if rough:
        target = target + 3 * (turns[0] > np.pi)
    op = operator(shape, scheme, target=target)
    assert op.averages_target == rough
    phi = smooth_potential(grid)
    direction = 0.1 * np.cos(turns[0] / 2) * np.cos(turns[1]) / (2 * np.pi)**2 + 0.2 * phi
    stencil = op.linearise(phi)
    steps = 2.0**-np.arange(2, 7)
    base = op.residual(phi)
    first = [np.sqrt(np.mean((op.residual(phi + t * direction) - base)**2)) for t in steps]
    second = [np.sqrt(np.mean((op.residual(phi + t * direction) - base + t * stencil.apply(direction))**2))
              for t in steps]
    slopes = [np.polyfit(np.log(steps), np.log(values), 1)[0] for values in (first, second)]
    assert abs(slopes[0] - 1) < 0.02  # observed at most 0.0015 off
    assert slopes[1] > 1.9  # observed 2.0006 to 2.007


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(9, 12), (8, 7), (6, 5, 7)])
def test_stencil_equals_its_matrix(shape, boundary):
    periodic = BOUNDARIES[boundary][:len(shape)]
    rng = np.random.default_rng(8)
    op = operator(shape, "monotone" if len(shape) == 2 else "centred", periodic, target=1 + 0.2 * rng.random(shape))
    stencil = op.linearise(random_potential(op, rng), shift=0.3)
    assert np.abs(stencil.drift).max() > 0
    field = rng.standard_normal(shape)
    applied = stencil.apply(field)
    error = np.abs(applied.ravel() - stencil.matrix() @ field.ravel()).max()
    assert error < 1e-13 * np.abs(applied).max()  # observed 4.2e-16
    assert np.abs(stencil.diagonal() - 0.3).min() > 0


@pytest.mark.parametrize(("scheme", "ndim"), SCHEMES)
def test_margin_is_affine_along_rays(scheme, ndim):
    op = operator((10, 9, 8)[:ndim], scheme, box=box_of(ndim))
    phi = random_potential(op, np.random.default_rng(9), margin=0.4)
    assert op.margin(np.zeros_like(phi)) == 1
    for t in (0.0, 0.3, 1.0, 2.5):
        assert abs(op.margin(t * phi) - (1 - t * (1 - 0.4))) < 1e-12  # observed 1.1e-16


@pytest.mark.parametrize("ndim", [2, 3])
def test_centred_margin_is_the_smallest_eigenvalue(ndim):
    from reference import centred_hessian
    op = operator((10, 9, 8)[:ndim], "centred")
    phi = random_potential(op, np.random.default_rng(10))
    hessian = centred_hessian(phi, op.quadratic, op.grid.spacing, op.grid.periodic)
    assert abs(op.margin(phi) - np.linalg.eigvalsh(hessian).min()) < 1e-12  # observed 3e-17


@pytest.mark.parametrize("with_factor", [False, True])
def test_logarithms_in_vectors(with_factor):
    rng = np.random.default_rng(6)
    values = np.concatenate([np.exp(rng.uniform(-300, 300, 20001)), rng.uniform(0.5, 2, 20000), [1.0, 1e-300, 1e300]])
    factor = rng.uniform(0.5, 2, values.size) if with_factor else None
    image = rng.standard_normal(values.size)
    product = values * factor if with_factor else values
    logs = values.copy()
    log_ratio(logs, factor, np.zeros(values.size), -np.inf, np.inf)
    assert (np.abs(logs - np.log(product)) <= np.spacing(np.abs(np.log(product)))).all()  # an ulp
    ratio = values.copy()
    mean, spread, outside = log_ratio(ratio, factor, image, -1.0, 2.0)
    assert np.array_equal(ratio, logs - image)
    assert mean == pytest.approx(ratio.mean(), rel=1e-10, abs=1e-10) and spread == pytest.approx(ratio.std(), rel=1e-10)
    assert outside == ((ratio < -1) | (ratio > 2)).sum()
    for bad in (0.0, -1.0, np.nan, np.inf):
        broken = np.array([2.0, bad, 3.0])
        mean, spread, outside = log_ratio(broken, None, np.zeros(3), 0.0, 5.0)
        assert np.isnan(broken).tolist() == [False, True, False] and np.isnan(mean) and np.isnan(spread)
        assert outside == 1


@pytest.mark.parametrize(("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_idle_threads_soon_sleep(given, spins):
    """As the library of GNU OpenMP says it has read it; the environment of the process stays as it was."""
    code = ("import os; before = dict(os.environ); import numpy as np, pmapde, numba\n"
            "solution = pmapde.solve(pmapde.TransportProblem(np.ones((8, 8)), np.ones((8, 8))))\n"
            "assert dict(os.environ) == before; print(numba.threading_layer())")
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT",
                                                                                    "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=environment | given | {"OMP_DISPLAY_ENV": "VERBOSE"})
    if "omp" not in done.stdout or "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("numba's threads are not those of GNU OpenMP here")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize("shape", [(3, 5), (150, 131), (2, 3, 4), (31, 40, 29)])
def test_passes_over_arrays_equal_numpy_whatever_the_threads(shape):
    rng = np.random.default_rng(8)
    values, weight = 1e3 + rng.standard_normal(shape), rng.random(shape)
    padded = rng.standard_normal([n + 2 for n in shape])
    inside, spacing = padded[(slice(1, -1),) * len(shape)], 0.1 + rng.random(len(shape))
    gradient = np.sqrt(sum((np.diff(values, axis=axis) ** 2).sum() / h**2 for axis, h in enumerate(spacing))
                       / values.size)
    before, results = numba.get_num_threads(), []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append([*moments(values), *weighted_mean(values, weight), gradient_norm(values, spacing)])
            assert np.array_equal(shifted(values, -7.5), values - 7.5)
            assert np.array_equal(advanced(values, 0.5, inside), values + 0.5 * inside)
    finally:
        numba.set_num_threads(before)
    wanted = [values.mean(), values.std(), (values * weight).sum() / weight.sum(), weight.sum(), gradient]
    assert np.allclose(results[0], wanted, rtol=1e-12, atol=0)
    assert results[0] == results[-1]
    own = values.copy()
    assert shifted(own, 1.0, out=own) is own and np.array_equal(own, values + 1.0)
    values.flat[-1] = np.inf
    assert np.isnan(moments(values)).all()
