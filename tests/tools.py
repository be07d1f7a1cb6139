"""What several test files share."""
import numpy as np

import pmapde


def orders(errors):
    """Observed orders between consecutive grids that are refined by two."""
    errors = np.asarray(errors)
    return np.log2(errors[:-1] / errors[1:])


def random_density(shape, rng, smoothness=2):
    """A positive random field: smoothed noise, contrast about 10."""
    from scipy.ndimage import gaussian_filter
    field = gaussian_filter(rng.standard_normal(shape), smoothness, mode="reflect")
    return np.exp(field / field.std())


def counts_per_level(solution, name):
    """Sum of a history column for each level."""
    levels = solution.history["level"]
    return [int(solution.history[name][levels == level].sum()) for level in range(levels.max() + 1)]


def steps_on_finest(solution):
    return counts_per_level(solution, "newton_iterations")[-1]


def solve_exact(exact, **arguments):
    solution = pmapde.solve(exact.problem, **arguments)
    assert solution.success, str(solution)
    return solution
