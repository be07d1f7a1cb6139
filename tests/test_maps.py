"""What maps are used for: densities and particles, gradients, Legendre transforms, barycentres, embedding."""
import numpy as np
import pytest
from scipy.linalg import sqrtm
from tools import orders, random_density, solve_exact

import pmapde
from pmapde import exact

SMOOTH = {"2D": exact.manufactured((48, 40)), "3D": exact.manufactured((16, 14, 18))}


@pytest.fixture(scope="module", params=SMOOTH)
def solution(request):
    return solve_exact(SMOOTH[request.param])


@pytest.fixture(scope="module")
def rough():
    rng = np.random.default_rng(5)
    pairs = {d: [random_density((n,) * d, rng, 1.5) ** 0.5 for _ in "st"] for d, n in ((2, 64), (3, 16))}
    return {d: pmapde.solve(pmapde.TransportProblem(*pair)) for d, pair in pairs.items()}


def points_in(grid, count, seed):
    return grid.lower + np.random.default_rng(seed).random((count, grid.ndim)) * grid.lengths


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_round_trips_on_rough_data_are_exact(rough, dimension, count):
    solution = rough[dimension]
    assert solution.folded_mass == 0
    y = points_in(solution.problem.target_grid, count, 3)
    assert np.abs(solution.map(solution.inverse_map(y)) - y).max() < 1e-12
    x = points_in(solution.problem.grid, count, 4)
    assert np.abs(solution.inverse_map(solution.map(x)) - x).max() < 1e-8


def test_points_on_faces_and_corners_have_their_preimages(rough):
    for dimension, solution in rough.items():
        corners = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * dimension, indexing="ij"), -1).reshape(-1, dimension)
        assert np.abs(solution.map(solution.inverse_map(corners)) - corners).max() < 1e-12
        edges = (corners == 0) | (corners == 1)
        assert (solution.inverse_map(corners)[edges] == corners[edges]).all()


def test_jacobian_is_that_of_the_map(solution):
    grid = solution.problem.grid
    x = points_in(grid, 2000, 5)
    jacobian, step = solution.jacobian(x), 1e-9
    for axis in range(grid.ndim):
        moved = x + step * np.eye(grid.ndim)[axis]
        slopes = (solution.map(moved) - solution.map(x)) / step
        kinks = np.abs(solution.jacobian(moved) - jacobian).max(axis=(1, 2)) > 1e-12  # another simplex
        assert kinks.mean() < 0.01
        np.testing.assert_allclose(slopes[~kinks], jacobian[~kinks][:, :, axis], atol=1e-5)
    assert np.linalg.det(jacobian).min() > 0
    assert np.isnan(solution.jacobian(np.full((1, grid.ndim), np.nan))).all()


def test_jacobian_determinant_integrates_to_the_volume_of_the_target(solution):
    n = 240 if solution.problem.ndim == 2 else 60
    fine = pmapde.Grid((n,) * solution.problem.ndim).cell_centres().reshape(solution.problem.ndim, -1).T
    assert abs(np.linalg.det(solution.jacobian(fine)).mean() - 1) < 1e-3


def test_any_density_is_pushed_forward_and_pulled_back_with_its_mass(solution):
    problem = solution.problem
    rng = np.random.default_rng(6)
    f, g = rng.standard_normal(problem.grid.shape), rng.standard_normal(problem.target_grid.shape)
    volumes = problem.grid.cell_volume, problem.target_grid.cell_volume
    assert abs(solution.push_forward(f).sum() * volumes[1] - f.sum() * volumes[0]) < 1e-12
    assert abs(solution.pull_back(g).sum() * volumes[0] - g.sum() * volumes[1]) < 1e-12
    for result, expected in ((solution.push_forward(), problem.target_values),
                             (solution.pull_back(), problem.source_values)):
        assert np.abs(result - expected).mean() < 0.01
    with pytest.raises(ValueError, match="`density` must be finite numbers of shape"):
        solution.push_forward(g[1:])


def test_pull_back_is_density_at_the_image_times_determinant():
    case = exact.manufactured((64, 64))
    solution, grid = solve_exact(case), case.problem.grid
    wave = lambda y: 1 + 0.5 * np.cos(np.pi * y[0]) * np.cos(np.pi * y[1])  # noqa: E731
    image = case.map(grid.cell_centres().reshape(2, -1).T).T
    target_at_image = np.exp(case.problem.target.log_density_by_component(np.ascontiguousarray(image), False)[0])
    expected = (wave(image) / target_at_image).reshape(grid.shape) * case.problem.source_values
    back = solution.pull_back(wave(grid.cell_centres()))
    assert np.abs(back - expected).mean() < 0.006  # the grain; the blur is far below
    assert np.abs(back - case.problem.source_values).mean() > 0.1
    blocks = (back - expected).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert np.abs(blocks).max() < 0.006


def test_particles_travel_on_straight_lines(solution):
    x = points_in(solution.problem.grid, 100, 7)
    np.testing.assert_array_equal(solution.geodesic(x, 0), x)
    np.testing.assert_allclose(solution.geodesic(x, 1), solution.map(x), atol=1e-15)
    np.testing.assert_allclose(solution.geodesic(x, 0.25), 0.75 * x + 0.25 * solution.map(x), atol=1e-15)
    with pytest.raises(ValueError, match="`s` must be between"):
        solution.geodesic(x, 1.5)


def test_potentials_are_the_gradient_of_the_cost():
    """Central differences of W2^2 along a change of either density against the integral of the potential."""
    x = (np.arange(64) + 0.5) / 64
    source = 1 + 0.5 * np.cos(np.pi * x)[:, None] * np.cos(np.pi * x)
    target = 1 + 0.4 * np.cos(2 * np.pi * x)[:, None] * np.cos(np.pi * x)

    def cost(source, target):
        return pmapde.solve(pmapde.TransportProblem(source, target), tolerance=1e-11).cost
    solution = pmapde.solve(pmapde.TransportProblem(source, target), tolerance=1e-11)
    f, g = solution.kantorovich_potentials
    assert abs((f * source).mean() + (g * target).mean() - solution.cost) < 2e-3 * solution.cost
    change = np.cos(np.pi * x)[:, None] * np.cos(2 * np.pi * x)
    t = 1e-2
    for potential, derivative in (
            (f, (cost(source + t * change, target) - cost(source - t * change, target)) / (2 * t)),
            (g, (cost(source, target + t * change) - cost(source, target - t * change)) / (2 * t))):
        assert abs((potential * change).mean() / derivative - 1) < 0.02


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4)])
def test_legendre_conjugate_is_the_maximum_over_all_cells(shape):
    rng = np.random.default_rng(9)
    grid = pmapde.Grid(shape, [(-1.0, 2.0)] * len(shape))
    other = pmapde.Grid(tuple(n + 2 for n in shape), [(-3.0, 1.0)] * len(shape))
    values = rng.standard_normal(shape)
    values[rng.random(shape) < 0.2] = np.inf
    x, y = (g.cell_centres().reshape(g.ndim, -1) for g in (grid, other))
    brute = (y.T @ x - values.ravel()).max(axis=1).reshape(other.shape)
    np.testing.assert_allclose(pmapde.legendre_conjugate(values, grid, other), brute, atol=1e-13)


@pytest.mark.parametrize("ndim", [2, 3])
def test_legendre_conjugate_between_the_centres_is_of_third_order(ndim):
    """Of a smooth, strictly convex function whose gradient maps the box onto the other one, so that maxima at faces are
    among them; of samples alone it is of second order, and never larger."""
    errors = {False: [], True: []}
    for n in (16, 32, 64):
        grid, slopes = pmapde.Grid((n,) * ndim), pmapde.Grid((2 * n + 1,) * ndim, [(1.0, np.e)] * ndim)
        values = np.exp(grid.cell_centres()).sum(axis=0)
        y = slopes.cell_centres()
        exact = (y * np.log(y) - y).sum(axis=0)
        for between, found in errors.items():
            difference = pmapde.legendre_conjugate(values, grid, slopes, between) - exact
            assert between or difference.max() < 1e-12
            found.append(np.abs(difference).mean())
    order = {between: np.log2(np.divide(found[:-1], found[1:])) for between, found in errors.items()}
    assert (np.abs(order[False] - 2) < 0.2).all() and (order[True] > 2.9).all()
    assert errors[True][-1] < 0.05 * errors[False][-1]


@pytest.mark.parametrize(("values", "other", "message"), [
    (np.full((4, 4), np.nan), (4, 4), "`values` must be numbers"),
    (np.full((4, 4), np.inf), (4, 4), "finite somewhere"),
    (np.zeros((4, 5)), (4, 4), "shape"), (np.zeros((4, 4)), (4, 4, 4), "`conjugate_grid` must have 2 axes"),
])
def test_legendre_conjugate_refuses_what_has_none(values, other, message):
    with pytest.raises(ValueError, match=message):
        pmapde.legendre_conjugate(values, pmapde.Grid((4, 4)), pmapde.Grid(other))


def gaussian(grid, mean, covariance):
    x = grid.cell_centres().reshape(grid.ndim, -1).T - mean
    values = np.exp(-0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv(covariance), x))
    return pmapde.GridDensity(values.reshape(grid.shape), grid)


COVARIANCES = [np.array(entries) / 2 for entries in ([[1.0, 0.5], [0.5, 0.6]], [[0.5, -0.3], [-0.3, 1.0]],
                                                     [[0.4, 0.0], [0.0, 0.9]])]
MEANS = [np.array(entries) for entries in ([-0.5, 0.0], [0.5, 0.3], [0.0, -0.4])]


def gaussian_barycentre(weights):
    covariance = np.eye(2)
    for _ in range(60):
        root = sqrtm(covariance).real
        covariance = sum(w * sqrtm(root @ other @ root).real for w, other in zip(weights, COVARIANCES))
    return sum(w * mean for w, mean in zip(weights, MEANS)), covariance


def moments(density, grid):
    mass, x = density.ravel() * grid.cell_volume, grid.cell_centres().reshape(grid.ndim, -1).T
    mean = mass @ x
    return mean, (x - mean).T @ ((x - mean) * mass[:, None])


def test_barycentre_of_gaussians_that_do_not_commute():
    weights = np.array([5.0, 3.0, 2.0])
    mean, covariance = gaussian_barycentre(weights / 10)
    errors = []
    for n in (32, 64):
        grid, calls = pmapde.Grid((n, n), [(-4, 4)] * 2), []
        result = pmapde.wasserstein_barycentre([gaussian(grid, *pair) for pair in zip(MEANS, COVARIANCES)], weights,
                                               callback=lambda *call, calls=calls: calls.append(call))
        assert result.success and len(result.solutions) == 3 and len(calls) == len(result.gradient) <= 7
        assert result.gradient[-1] <= result.tolerance < result.gradient[0] / 100
        assert (np.diff(result.objective[:3]) < 0).all()
        assert abs(result.density.sum() * grid.cell_volume - 1) < 1e-12
        found = moments(result.density, grid)
        assert np.abs(found[0] - mean).max() < 1e-3
        errors.append(np.abs(found[1] - covariance).max())
        spread = sum(w * (np.trace(c + covariance) - 2 * np.trace(sqrtm(sqrtm(covariance) @ c @ sqrtm(covariance)).real)
                          + ((m - mean)**2).sum()) for w, c, m in zip(weights / 10, COVARIANCES, MEANS))
        assert abs(result.objective[-1] / spread - 1) < 0.01 * (32 / n)**2 * 2
    assert errors[1] < 1e-3 and orders(errors)[0] > 1.8


def test_barycentre_of_two_is_the_displacement_interpolation_and_of_one_twice_itself():
    rng = np.random.default_rng(10)
    pair = [random_density((48, 48), rng, 5) for _ in "ab"]
    solution = pmapde.solve(pmapde.TransportProblem(*pair))
    result = pmapde.wasserstein_barycentre(pair, [0.7, 0.3])
    assert result.success
    expected = solution.interpolate(0.3)
    assert np.abs(result.density - expected).mean() < 0.03
    assert abs(result.objective[-1] / (0.7 * 0.3 * solution.cost) - 1) < 0.01  # w (1 - w) W2^2
    same = pmapde.wasserstein_barycentre([pair[0], pair[0]])
    assert same.success and np.abs(same.density - pair[0] / pair[0].mean()).max() < 0.02 * same.density.max()


def test_barycentre_on_boxes_tori_and_in_space():
    boxes = [pmapde.Grid((32, 32), [(0, 2), (0, 1)]), pmapde.Grid((40, 32), [(1, 2), (2, 4)])]
    result = pmapde.wasserstein_barycentre([np.ones((32, 32)), np.ones((40, 32))], grids=boxes)
    assert result.success and result.grid.box == ((0.5, 2.0), (1.0, 2.5))
    np.testing.assert_allclose(result.density, 1 / 2.25, rtol=1e-9)
    x = (np.arange(32) + 0.5) / 32
    bump = [1.2 + np.cos(2 * np.pi * (x[:, None] - at)) * np.ones(32) for at in (0.15, 0.85)]
    torus = pmapde.wasserstein_barycentre(bump, grids=pmapde.Grid((32, 32), periodic=True))
    assert torus.success and np.argmax(torus.density[:, 0]) in (0, 31)  # at the face: the short way goes through it
    balls = [np.exp(-((pmapde.Grid((16,) * 3).cell_centres() - at)**2).sum(axis=0) / 0.06) + 0.02 for at in (0.4, 0.6)]
    space = pmapde.wasserstein_barycentre(balls)
    assert space.success and np.abs(moments(space.density, space.grid)[0] - 0.5).max() < 5e-3


def test_barycentre_of_discs_is_the_disc_between():
    """Zeros on both sides: the mixture of the discs would be the hardest of sources."""
    x = pmapde.Grid((32, 32)).cell_centres()
    discs = [(((x - np.array(at)[:, None, None])**2).sum(axis=0) < 0.15**2).astype(float)
             for at in ((0.3, 0.3), (0.7, 0.7), (0.5, 0.5))]
    result = pmapde.wasserstein_barycentre(discs[:2])
    assert result.success and len(result.gradient) <= 8
    between = discs[2] / discs[2].mean()
    assert np.abs(result.density - between).mean() < 0.3  # the rim is smeared by about a cell
    mean, covariance = moments(result.density, result.grid)
    np.testing.assert_allclose(mean, 0.5, atol=5e-3)
    np.testing.assert_allclose(np.diag(covariance), 0.15**2 / 4, rtol=0.1)
    assert result.objective[-1] == pytest.approx(0.08, rel=0.03)  # half the squared distance of the centres, halved


@pytest.mark.parametrize(("arguments", "message"), [
    (([np.ones((8, 8))],), "`densities` must be at least two"),
    (([np.ones((8, 8))] * 2, [1.0, 0.0]), "`weights` must be 2 positive numbers"),
    (([np.ones((8, 8)), np.ones((4, 4, 4))],), "same number of axes"),
    (([np.ones((8, 8)), -np.ones((8, 8))],), r"densities\[1\]"),
])
def test_barycentre_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        pmapde.wasserstein_barycentre(*arguments)


def test_barycentre_that_fails_says_so():
    rng = np.random.default_rng(11)
    pair = [random_density((16, 16), rng) for _ in "ab"]
    result = pmapde.wasserstein_barycentre(pair, max_iterations=1)
    assert result.status is pmapde.Status.MAX_STEPS and not result.success
    with pytest.raises(pmapde.SolverError) as caught:
        pmapde.wasserstein_barycentre(pair, max_iterations=1, throw=True)
    assert caught.value.solution.density.shape == (16, 16)


def test_embedding_is_isometric_where_maps_commute_and_never_short():
    x = (np.arange(64) + 0.5) / 64
    grid, floor = pmapde.Grid((64, 64), [(-4, 4)] * 2), 1e-7
    scales = [0.7, 1.0, 1.3]
    family = [gaussian(grid, np.array([0.3 * s, 0.0]), s**2 * 0.4 * np.eye(2)) for s in scales]
    embedding = pmapde.LinearEmbedding(family[1], floor=floor)
    vectors = embedding.fit_transform(family)
    assert vectors.shape == (3, 2 * 64 * 64)
    exactly = np.sqrt(0.3**2 * 0.6**2 + 2 * 0.4 * 0.6**2)
    assert abs(np.linalg.norm(vectors[0] - vectors[2]) / exactly - 1) < 5e-3
    assert np.linalg.norm(vectors[1]) < 1e-3
    back = embedding.inverse_transform(vectors)
    assert np.abs(back[2] - family[2].normalised(floor).values).mean() < 0.02 * back[2].max()
    rng = np.random.default_rng(12)
    others = [random_density(x.shape * 2, rng, 8) ** 0.5 for _ in "abc"]
    general = pmapde.LinearEmbedding(others[0])
    far = general.transform(others[1:])
    w2 = pmapde.solve(pmapde.TransportProblem(*others[1:])).w2
    assert w2 * 0.999 < np.linalg.norm(far[0] - far[1]) < 1.5 * w2
    assert general.get_params()["floor"] is None and general.set_params(floor=0.1).floor == 0.1
    with pytest.raises(ValueError, match="no parameter 'flor'"):
        general.set_params(flor=0.1)
    with pytest.raises(ValueError, match="`vectors` must be of shape"):
        general.inverse_transform(np.ones((1, 3)))


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(weights="ab"), "`weights` must be 2"), (dict(grids=5), "`grids` must be"),
    (dict(grids=[None, 3]), "`grids` must be"), (dict(max_iterations=0), "`max_iterations` must be"),
    (dict(tolerance="a"), "`tolerance` must be")])
def test_bad_arguments_of_a_barycentre_get_one_sentence(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pmapde.wasserstein_barycentre([np.ones((8, 8))] * 2, **arguments)
