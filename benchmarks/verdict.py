"""Judge a map by the densities alone: misplaced mass, folds, monotonicity, range. Shares no code with the solver.

Only ``solution.map`` is asked. The source, constant on its cells, is cut into points that carry equal shares of each
cell's mass, the more the more it has; where they land is counted over blocks of 8 cells per axis (a little less where 8
does not divide their number) and compared with the target's blocks.
"""
from dataclasses import dataclass

import numpy as np

BLOCK = 8
LIMIT = 0.02


@dataclass(frozen=True)
class Verdict:
    """``misplaced``: fraction of the mass in the wrong block; ``shifted``: in the wrong one of blocks shifted by half
    their size, of which nothing is asked; ``folded``: of the mass where the map turns space over;
    ``crooked``: of the mass where it is not monotone (``DT`` plus its transpose not positive); ``outside``: points that
    leave the target's box."""

    misplaced: float
    shifted: float
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


def block_edges(shape, shifted):
    """Per axis of the unit box: as many equal blocks as there are eights of cells, or more; shifted by half a block."""
    edges = [np.linspace(0, 1, max(2, -(-n // BLOCK)) + 1) for n in shape]
    return [np.concatenate([[0], (ends[1:] + ends[:-1]) / 2, [1]]) for ends in edges] if shifted else edges


def block_masses(density, edges):
    """Shares of a density, constant on its cells, in blocks."""
    mass = density / density.sum()
    for axis, ends in enumerate(edges):
        sums = np.cumsum(np.moveaxis(mass, axis, -1), axis=-1)
        sums = np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)
        place = ends * (sums.shape[-1] - 1)
        cell = np.minimum(place.astype(int), sums.shape[-1] - 2)
        sums = sums[..., cell] + (place - cell) * (sums[..., cell + 1] - sums[..., cell])
        mass = np.moveaxis(np.diff(sums, axis=-1), -1, axis)
    return mass


def misplaced_mass(solution, source, target):
    """Half the L1 distance of pushed and target mass over the blocks, and over shifted ones."""
    shape, ndim = source.shape, source.ndim
    mass = source / source.sum()
    counts, mass = points_per_axis(mass).ravel(), mass.ravel()
    partitions = [block_edges(target.shape, shifted) for shifted in (False, True)]
    arrived = [np.zeros([len(ends) - 1 for ends in edges]) for edges in partitions]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, ndim)
    for count in np.unique(counts):
        cells = np.flatnonzero(counts == count)
        parts = (np.stack(np.meshgrid(*[np.arange(count)] * ndim, indexing="ij"), -1).reshape(-1, ndim) + 0.5) / count
        for some in np.array_split(cells, -(-len(cells) * len(parts) // 2**20)):
            image = solution.map(((index[some, None] + parts) / shape).reshape(-1, ndim))
            share = np.repeat(mass[some] / len(parts), len(parts))
            for edges, total in zip(partitions, arrived):
                where = [np.clip(np.searchsorted(ends, image[:, axis], "right") - 1, 0, len(ends) - 2)
                         for axis, ends in enumerate(edges)]
                total += np.bincount(np.ravel_multi_index(where, total.shape), share, total.size).reshape(total.shape)
    return tuple(0.5 * float(np.abs(total - block_masses(target, edges)).sum())
                 for edges, total in zip(partitions, arrived))


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
    return Verdict(*misplaced_mass(solution, source, target), *turned_over(solution, source, rng, per_cell), outside)
