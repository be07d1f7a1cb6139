"""The problems with known answers are what they claim to be: checked without any solver of the package."""
import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import ndtr

from pmapde import exact, gallery
from pmapde.density import GridDensity

PROBLEMS = {
    "cosine 2D": lambda n: exact.separable_cosine((n, n + 2)),
    "cosine 3D": lambda n: exact.separable_cosine((n, n, n), amplitude=-0.8),
    "cosine torus": lambda n: exact.separable_cosine((n, n), periodic=True),
    "manufactured 2D": lambda n: exact.manufactured((n, n + 3)),
    "manufactured 3D": lambda n: exact.manufactured((n, n + 1, n)),
    "manufactured strong": lambda n: exact.manufactured((n, n), strength=0.9),
    "manufactured torus": lambda n: exact.manufactured((n, n), periodic=True),
    "manufactured torus 3D": lambda n: exact.manufactured((n, n, n), periodic=True),
    "manufactured uniform": lambda n: exact.manufactured((n, n), uniform_target=True),
    "expanding 2D": lambda n: exact.gaussians((n, n)),
    "expanding 3D": lambda n: exact.gaussians((n, n, n)),
    "contracting": lambda n: exact.gaussians((n, n), source_deviation=0.4, target_deviation=0.15),
    "tail matched 2D": lambda n: exact.gaussians((n, n), "tail_matched"),
    "tail matched 3D": lambda n: exact.gaussians((n, n, n), "tail_matched"),
}
PERIODIC = [name for name in PROBLEMS if "torus" in name]
FINE = {2: 192, 3: 48}  # cells per axis of the quadratures below
STEP = 2.5e-4  # of the differences: truncation and rounding are about equal


@pytest.fixture(params=PROBLEMS)
def known(request):
    return PROBLEMS[request.param](16)


@pytest.fixture(params=[name for name in PROBLEMS if name not in PERIODIC])
def boxed(request):
    return PROBLEMS[request.param](16)


def random_points(grid, count=200):
    fraction = np.random.default_rng(20240611).uniform(0.02, 0.98, (count, grid.ndim))
    return grid.lower + fraction * grid.lengths


def difference_gradient(function, points, step):
    """Fourth-order central differences: (n, d) for a scalar function, (n, components, d) for a vector one."""
    columns = []
    for axis in range(points.shape[1]):
        shift = np.eye(points.shape[1])[axis] * step
        columns.append((8 * (function(points + shift) - function(points - shift))
                        - function(points + 2 * shift) + function(points - 2 * shift)) / (12 * step))
    return np.stack(columns, axis=-1)


def log_source_at_centres(known):
    """log mu, normalised on the grid (the source is kept at the cell centres only)."""
    return np.log(known.problem.source_values).ravel()


def log_residual(known, map_function):
    """log det DT + log nu(T) - log mu at the cell centres, up to the constant that normalising on a grid costs."""
    grid = known.problem.grid
    points = grid.cell_centres().reshape(grid.ndim, -1).T
    determinant = np.linalg.det(difference_gradient(map_function, points, STEP))
    log_target = known.problem.target.log_density_by_component(np.ascontiguousarray(map_function(points).T), False)[0]
    residual = np.log(determinant) + log_target - log_source_at_centres(known)
    return residual - residual.mean()


def test_gradient_of_the_potential_is_the_map(known):
    points = random_points(known.problem.grid)
    gradient = difference_gradient(known.potential, points, STEP)
    assert np.abs(gradient - known.map(points)).max() < 1e-9  # observed at most 2e-10 (contracting, truncation)


def test_the_map_satisfies_the_monge_ampere_equation(known):
    assert np.abs(log_residual(known, known.map)).max() < 2e-8  # observed at most 4e-9 (contracting, truncation)


def test_a_map_off_by_a_thousandth_does_not_satisfy_the_equation(known):
    def wrong(points):
        return points + 1.001 * (known.map(points) - points)
    assert np.abs(log_residual(known, wrong)).max() > 3e-4  # observed at least 4e-4, the tolerance above is 2e-8


def test_the_jacobian_is_symmetric_positive_definite(known):
    jacobian = difference_gradient(known.map, random_points(known.problem.grid), STEP)
    assert np.abs(jacobian - jacobian.transpose(0, 2, 1)).max() < 5e-12  # observed at most 6e-13
    assert np.linalg.eigvalsh(jacobian).min() > 0


def test_faces_are_mapped_onto_faces(boxed):
    source, target = boxed.problem.grid, boxed.problem.target_grid
    for axis in range(source.ndim):
        for side in (0, 1):
            points = random_points(source)
            points[:, axis] = source.box[axis][side]
            error = np.abs(boxed.map(points)[:, axis] - target.box[axis][side]).max()
            assert error < 1e-13  # observed at most 2.2e-16


@pytest.mark.parametrize("name", PERIODIC)
def test_the_displacement_is_periodic_on_the_torus(name):
    known = PROBLEMS[name](16)
    points = random_points(known.problem.grid)
    for axis in range(points.shape[1]):
        moved = points + np.eye(points.shape[1])[axis]
        assert np.abs((known.map(moved) - moved) - (known.map(points) - points)).max() < 1e-14  # rounding


@pytest.mark.parametrize("name", PROBLEMS)
def test_cost_equals_the_sum_over_a_fine_grid(name):
    ndim = PROBLEMS[name](8).problem.ndim
    known = PROBLEMS[name](FINE[ndim])
    spectral = "cosine" in name or "manufactured" in name
    cost = (known.displacement()**2).sum(axis=0).ravel() @ np.exp(log_source_at_centres(known))
    cost *= known.problem.grid.cell_volume
    # midpoint sums of trigonometric integrands are at rounding (observed at most 7e-16); of truncated Gaussians
    # O(h^2) (observed at most 2.4e-4, contracting)
    assert abs(cost / known.cost - 1) < (1e-13 if spectral else 5e-4)


def test_cost_of_the_gaussians_agrees_with_adaptive_quadrature():
    deviation, mean, mass = (0.22, 0.25), (0.45, 0.55), 1.0
    known = exact.gaussians((8, 8), source_deviation=deviation, source_mean=mean)
    for m, s in zip(mean, deviation):
        mass *= s * np.sqrt(2 * np.pi) * (ndtr((1 - m) / s) - ndtr(-m / s))

    def integrand(y, x):
        point = np.array([[x, y]])
        weight = np.exp(-sum((c - m)**2 / (2 * s**2) for c, m, s in zip((x, y), mean, deviation)))
        return float(((known.map(point) - point)**2).sum()) * weight / mass
    cost = dblquad(integrand, 0, 1, 0, 1, epsabs=1e-12, epsrel=1e-12)[0]
    assert abs(cost - known.cost) < 1e-13  # observed below 1e-15


def test_cost_of_the_manufactured_problem_does_not_depend_on_its_quadrature():
    for periodic in (False, True):
        known = exact.manufactured((96, 96), strength=0.95, periodic=periodic)
        cost = (known.displacement()**2).sum(axis=0).ravel() @ np.exp(log_source_at_centres(known)) / 96**2
        assert abs(cost / known.cost - 1) < 1e-13  # 96 against 64 points, observed 2.2e-16


def test_cost_of_the_cosine_is_the_closed_form():
    assert abs(exact.separable_cosine((8, 8)).cost / 2 - 0.004559453264) < 1e-12  # a^2 / (8 pi^2), a = 0.6


def test_implied_sources_have_unit_mass():
    for name, build in PROBLEMS.items():
        if "cosine" in name or "manufactured" in name:
            problem = build(32).problem
            assert abs(problem.source_log_mass) < 1e-12, name  # observed 1e-15: spectral accuracy
            assert abs(problem.source_values.sum() * problem.grid.cell_volume - 1) < 1e-13, name
            assert abs(problem.target_log_mass) < 1e-12, name


def test_manufactured_problems_are_not_separable():
    for periodic in (False, True):
        known = exact.manufactured((16, 16), periodic=periodic)
        log_source = np.log(known.problem.source_values)
        mixed = np.diff(np.diff(log_source, axis=0), axis=1)  # zero for a product of one-dimensional densities
        assert np.abs(mixed).max() > 0.01


def test_manufactured_eigenvalues_stay_within_the_strength():
    for periodic in (False, True):
        for ndim in (2, 3):
            phi = gallery.displacement_potential(ndim, 0.9, periodic)
            points = np.random.default_rng(7129).random((4000, ndim))
            assert np.abs(np.linalg.eigvalsh(phi.hessian(points))).max() <= 0.9


def test_target_gradients_are_the_derivatives_of_the_targets(known):
    points = random_points(known.problem.target_grid)
    if isinstance(known.problem.target, GridDensity):
        assert known.problem.target.is_uniform
        return
    density = known.problem.target.density
    gradient = density.log_density(points, True)[1]
    assert np.abs(gradient - difference_gradient(density.log_density, points, STEP)).max() < 1e-10  # observed 1.3e-11


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_array_target_approaches_the_formula_with_second_order(interpolation):
    errors = []
    for n in (16, 32, 64):
        known = exact.manufactured((n, n), array_target=True, interpolation=interpolation)
        assert isinstance(known.problem.target, GridDensity)
        points = random_points(known.problem.grid)
        formula = exact.manufactured((n, n)).problem.target.density.log_density(points)
        errors.append(np.abs(known.problem.target.log_density(points) - formula).max())
    assert errors[-1] < 5e-3  # observed 1.4e-3 linear, 5e-5 cubic
    assert np.log2(errors[0] / errors[-1]) / 2 > 1.7  # observed 1.95 linear, 4.5 cubic (away from the limited minima)


def test_expanding_map_keeps_its_digits_in_both_tails():
    mirrored = dict(source_mean=0.5, target_mean=0.5, source_deviation=0.08, target_deviation=0.3)
    known = exact.gaussians((8, 8), **mirrored)
    near = np.linspace(0.0, 0.2, 41)
    low = known.map(np.stack([near, near], axis=1))
    high = known.map(1 - np.stack([near, near], axis=1))
    assert np.abs(low + high - 1).max() < 1e-13  # observed 1e-16: the upper tail is as good as the lower
    assert (np.diff(low[:, 0]) > 0).all()
    # without the complement the upper tail, seven deviations out, would lose its digits: the case is not vacuous
    naive = 1 - ndtr((1 - near - 0.5) / 0.08)
    assert np.abs(naive / ndtr((near - 0.5) / 0.08) - 1).max() > 1e-8


def test_potential_of_the_expanding_gaussians_is_resolved():
    known = exact.gaussians((8, 8), source_deviation=0.1, target_deviation=0.3)
    points = random_points(known.problem.grid)
    gradient = difference_gradient(known.potential, points, STEP)
    assert np.abs(gradient - known.map(points)).max() < 2e-11  # observed 3.6e-12


def test_errors_are_zero_on_the_answer_and_measure_what_they_say(known):
    grid = known.problem.grid
    points = grid.cell_centres().reshape(grid.ndim, -1).T
    potential = known.potential(points).reshape(grid.shape)
    assert known.map_error(known.displacement()) == 0
    assert known.potential_error(potential + 3.0) < 1e-14
    shift = np.full((grid.ndim, *grid.shape), 0.01)
    assert np.isclose(known.map_error(known.displacement() + shift), 0.01 * np.sqrt(grid.ndim), rtol=1e-12)
    ramp = np.linspace(-1e-3, 1e-3, grid.size).reshape(grid.shape)
    assert np.isclose(known.potential_error(potential + ramp), 1e-3, rtol=1e-9)


def test_wrong_shapes_and_parameters_are_refused():
    known = exact.separable_cosine((8, 6))
    with pytest.raises(ValueError, match=r"`displacement` must have shape \(2, 8, 6\)"):
        known.map_error(np.zeros((8, 6)))
    with pytest.raises(ValueError, match=r"`potential` must have shape \(8, 6\)"):
        known.potential_error(np.zeros((6, 8)))
    with pytest.raises(ValueError, match="`amplitude`"):
        exact.separable_cosine((8, 8), amplitude=1.0)
    with pytest.raises(ValueError, match="`strength`"):
        exact.manufactured((8, 8), strength=1.0)
    with pytest.raises(ValueError, match="`kind`"):
        exact.gaussians((8, 8), "shrinking")


def test_warped_image_is_known_as_far_as_the_image_is_resolved():
    errors = []
    for n in (32, 64, 128):
        known = exact.warped_image(gallery.load("two_gaussians", (n, n)))
        errors.append(np.sqrt(np.mean(log_residual_of_arrays(known)**2)))
        assert abs(known.problem.target_values.mean() - 1) < 1e-12
    assert errors[-1] < 1e-3  # observed 3.9e-4
    assert np.log2(errors[0] / errors[-1]) / 2 > 1.7  # observed 1.92


def log_residual_of_arrays(known):
    grid = known.problem.grid
    points = grid.cell_centres().reshape(grid.ndim, -1).T
    phi = gallery.displacement_potential(grid.ndim, 0.5)
    log_target = known.problem.target.log_density(known.map(points))
    return np.linalg.slogdet(np.eye(grid.ndim) + phi.hessian(points))[1] + log_target - log_source_at_centres(known)
