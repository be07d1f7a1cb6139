"""Judge a map by the densities alone: misplaced mass, folds, monotonicity, range. Shares nothing with the solver.

Only ``solution.map`` is asked. The source, constant on its cells, is cut into points that carry equal shares of each
cell's mass; where they land is counted over blocks of 8 cells per axis and compared with the target's blocks.
"""
from dataclasses import dataclass

import numpy as np

BLOCK = 8
LIMIT = 0.02


@dataclass(frozen=True)
class Verdict:
    """``misplaced``: fraction of the mass in the wrong block; ``folded``: of the mass where the map turns space over;
    ``crooked``: of the mass where it is not monotone (``DT`` plus its transpose not positive); ``outside``: points that
    leave the target's box."""

    misplaced: float
    folded: float
    crooked: float
    outside: int

    @property
    def sound(self):
        return self.misplaced <= LIMIT and self.folded == 0 and self.outside == 0


def points_per_axis(shape):
    """Points of a cell along an axis: as many as a few million points allow."""
    cells = np.prod(shape)
    most = 40 if len(shape) == 2 else 6
    return int(np.clip((3e6 / cells) ** (1 / len(shape)), 2, most))


def misplaced_mass(solution, source, target, points=None):
    """Half the L1 distance of pushed and target mass over the blocks."""
    shape, ndim = source.shape, source.ndim
    count = points or points_per_axis(shape)
    blocks = tuple(max(2, n // BLOCK) for n in target.shape)
    arrived = np.zeros(blocks)
    mass = (source / source.sum()).ravel() / count**ndim
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, ndim)
    for part in np.ndindex(*(count,) * ndim):
        image = solution.map((index + (np.array(part) + 0.5) / count) / shape)
        where = np.minimum((image * blocks).astype(int), np.array(blocks) - 1)
        arrived += np.bincount(np.ravel_multi_index(where.T, blocks), mass, arrived.size).reshape(blocks)
    wanted = target / target.sum()
    for axis, (n, m) in enumerate(zip(target.shape, blocks)):
        wanted = np.add.reduceat(wanted, np.arange(0, n, n // m)[:m], axis=axis)
    return 0.5 * float(np.abs(arrived - wanted).sum())


def jacobians(solution, points, step=1e-7):
    """``DT`` at points, by differences far shorter than a cell, (n, d, d); the map is piecewise affine."""
    ndim = points.shape[1]
    ends = [solution.map(points + sign * step * np.eye(ndim)[axis]) for axis in range(ndim) for sign in (1, -1)]
    return np.stack([(ends[2 * axis] - ends[2 * axis + 1]) / (2 * step) for axis in range(ndim)], axis=-1)


def turned_over(solution, source, rng, per_cell):
    """``(folded, not monotone)``: shares of the source mass where ``det DT <= 0``, where ``DT + DT'`` is not positive.

    At random points of every cell. Where the map crosses from one affine piece to the next within a difference the
    determinant is that of neither: points on such a line are left out by looking twice, with a shorter difference.
    """
    shape, ndim = source.shape, source.ndim
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, ndim)
    mass, folded, wrong = (source / source.sum()).ravel() / per_cell, 0.0, 0.0
    for _ in range(per_cell):
        points = np.clip((index + rng.random(index.shape)) / shape, 1e-6, 1 - 1e-6)
        jacobian = jacobians(solution, points)
        bad = np.linalg.det(jacobian) <= 0
        if bad.any():
            bad[bad] = np.linalg.det(jacobians(solution, points[bad], 1e-9)) <= 0
        folded += mass[bad].sum()
        wrong += mass[np.linalg.eigvalsh(jacobian + np.swapaxes(jacobian, 1, 2))[:, 0] < 0].sum()
    return float(folded), float(wrong)


def judge(solution, source, target, seed=0):
    """The verdict on a solution between two arrays on the unit box."""
    rng = np.random.default_rng(seed)
    points = rng.random((20_000, source.ndim))
    image = solution.map(points)
    outside = int((~((image >= 0) & (image <= 1)).all(axis=1)).sum())  # NaN counts
    per_cell = int(np.clip(2e5 // source.size, 1, 16))
    return Verdict(misplaced_mass(solution, source, target), *turned_over(solution, source, rng, per_cell), outside)
