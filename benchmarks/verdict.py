"""Judge a map by the densities alone: misplaced mass, folds, monotonicity, range. Shares nothing with the solver.

Only ``solution.map`` is asked. The source, constant on its cells, is cut into points that carry equal shares of each
cell's mass, the more the more it has; where they land is counted over blocks of 8 cells per axis and compared with the
target's blocks.
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


POINTS = 3e6
"""About so many carry the mass."""
MOST = {2: 64, 3: 24}
"""Of a cell along an axis."""


def points_per_axis(mass):
    """Points of every cell along an axis: more of a cell that carries more, whose image may cover many blocks."""
    return np.clip(np.ceil((POINTS * mass) ** (1 / mass.ndim)), 2, MOST[mass.ndim]).astype(int)


def misplaced_mass(solution, source, target):
    """Half the L1 distance of pushed and target mass over the blocks."""
    shape, ndim = source.shape, source.ndim
    mass = source / source.sum()
    counts, mass = points_per_axis(mass).ravel(), mass.ravel()
    blocks = tuple(max(2, n // BLOCK) for n in target.shape)
    arrived = np.zeros(blocks)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, ndim)
    for count in np.unique(counts):
        cells = np.flatnonzero(counts == count)
        parts = (np.stack(np.meshgrid(*[np.arange(count)] * ndim, indexing="ij"), -1).reshape(-1, ndim) + 0.5) / count
        for some in np.array_split(cells, -(-len(cells) * len(parts) // 2**20)):
            image = solution.map(((index[some, None] + parts) / shape).reshape(-1, ndim))
            where = np.minimum((image * blocks).astype(int), np.array(blocks) - 1)
            share = np.repeat(mass[some] / len(parts), len(parts))
            arrived += np.bincount(np.ravel_multi_index(where.T, blocks), share, arrived.size).reshape(blocks)
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
