"""The map between the grid points: a piecewise affine homeomorphism where it is not folded; its inverse;
push-forward."""
from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np

from .ghosts import fill_ghosts
from .kernels import folds
from .kernels import transport as kernels
from .reductions import advanced, combine
from .threads import refuse_forked
from .transfer import average

BLOCK = 8  # target cells per axis over which masses are compared
UNFOLDING_WORK = 3 * 10**8, 300
"""Cells that are visited at most, and so many a cell more: a map that is folded all over is not straightened."""
STRIDE = 20
"""Sweeps of one call of the kernel: in between a run may be interrupted."""
SMALL_ERROR = 0.004  # misplaced mass that need not be known more precisely
LARGE = 2**18  # cells in 3D, from which on pairs of them along all axes are moved together first
NEAR_THE_LIMIT = (0.01, 0.03)  # and that which must be
PARTS = 16  # of the source, summed in order whatever the number of threads, where the target has few cells


def component_first(points, dimension):
    """``points`` (n, d), checked, as a component-first array (d, n)."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != dimension or points.dtype.kind not in "fiu":
        raise ValueError(f"`points` must be real numbers of shape (n, {dimension}), got shape {points.shape}.")
    return np.ascontiguousarray(points.T, dtype=np.float64)


class PiecewiseAffineMap:
    """``T = grad u`` continued from the cell centres to the whole box, piecewise affine on simplices.

    The lattice of the cell centres, completed by the faces of a no-flux box (mapped to the faces of the target box, by
    the even reflection of the potential) or wrapped on periodic axes, is cut into the simplices of Kuhn's
    triangulation: 2 triangles or 6 tetrahedra a cell. ``T`` is affine on each, continuous, and takes box onto box. If
    every simplex keeps its orientation, ``T`` is a homeomorphism and ``inverse`` its exact inverse (no iteration).
    Where simplices are folded ``T`` is not injective; ``inverse`` then gives one of the preimages, and ``folded_cells``
    says where that is.

    Parameters
    ----------
    grid, target_grid : Grid
    displacement : ndarray, (d, *shape)
        ``T(x) - x`` at the cell centres, not wrapped on periodic axes.

    Attributes
    ----------
    straightened_mass : float
        Source mass of the folds it had before :meth:`unfolded`.
    """

    straightened_mass = 0.0

    def __init__(self, grid, target_grid, displacement):
        refuse_forked()
        self.grid, self.target_grid, self.displacement = grid, target_grid, displacement
        self.dimension = grid.ndim
        # on a torus the target's coordinates count modulo the period: its box is where it is
        self.shape = np.array(grid.shape)
        self.periods = np.where(grid.periodic, grid.lengths, 0.0)
        self.strides = tuple(int(np.prod(self.shape[a + 1:] + 2)) for a in range(self.dimension))
        self.axes = np.zeros((self.dimension, self.shape.max() + 2))
        for a in range(self.dimension):
            self.axes[a, :self.shape[a] + 2] = grid.lower[a] + (np.arange(self.shape[a] + 2) - 0.5) * grid.spacing[a]
            if not grid.periodic[a]:
                self.axes[a, 0], self.axes[a, self.shape[a] + 1] = grid.box[a]
        nodes = np.empty((self.dimension, *self.shape + 2))
        centres = [np.zeros((self.dimension, n)) for n in grid.shape]
        for a, along in enumerate(centres):
            along[a] = grid.centres(a)
        if self.dimension == 2:  # slabs of one row
            centres.insert(1, np.zeros((2, 1)))
            kernels.place(displacement[:, :, None], *centres, nodes[:, :, None])
        else:
            kernels.place(displacement, *centres, nodes)
        for a, part in enumerate(nodes):
            self._complete(part, a)
        self.nodes = nodes.reshape(self.dimension, -1)

    def _complete(self, out, component=None):
        """Values at the cell centres, inside ``out``, continued to the lattice: even about faces, periodic,
        faces to faces."""
        fill_ghosts(out, 1, self.grid.periodic)
        for axis, wraps in enumerate(self.grid.periodic):
            first, last = ((slice(None),) * axis + (end,) for end in (0, -1))
            if axis == component and wraps:
                out[first] -= self.periods[axis]
                out[last] += self.periods[axis]
            elif axis == component:
                out[first], out[last] = self.target_grid.box[axis]
        return out

    @property
    def _geometry(self):
        grid = self.grid
        return self.axes, self.strides, self.shape, grid.lower, grid.spacing, np.array(grid.periodic)

    @cached_property
    def _permutations(self):
        return np.array(list(itertools.permutations(range(self.dimension))))

    @cached_property
    def _first(self):
        """First lattice cell of each axis; a periodic one repeats its last."""
        return np.array(self.grid.periodic).astype(np.int64)

    @cached_property
    def _bins(self):
        """Search structure of ``inverse``: for every bin of the target box the lattice cells that may cover it."""
        box = self.target_grid
        bins = self.shape
        arguments = (self.nodes, self.strides, self.shape, self._first, box.lower, box.lengths / bins, bins,
                     np.array(self.grid.periodic))
        start = np.zeros(int(bins.prod()) + 1, dtype=np.int64)
        kernels.bin_cells(*arguments, start, np.empty(0, dtype=np.int64), False)
        np.cumsum(start, out=start)
        entries = np.empty(start[-1], dtype=np.int64)
        kernels.bin_cells(*arguments, start[:-1].copy(), entries, True)
        return start, entries

    def interpolate(self, values, points):
        """Any field at the cell centres, even about the faces, at ``points`` (d, n), by the same simplices."""
        out = np.empty((1, points.shape[1]))
        lattice = self._complete(np.pad(values, 1)).reshape(1, -1)
        kernels.evaluate(lattice, *self._geometry, self.periods, points, out)
        return out[0]

    def forward(self, points):
        """``T(points)``, (d, n) to (d, n), not wrapped."""
        refuse_forked()
        out = np.empty(points.shape)
        kernels.evaluate(self.nodes, *self._geometry, self.periods, points, out)
        return out

    def jacobian(self, points):
        """``DT`` at ``points`` (d, n), (d, d, n): constant on every simplex."""
        out = np.empty((self.dimension, *points.shape))
        kernels.jacobian(self.nodes, *self._geometry, points, out)
        return out

    def inverse(self, points):
        """``(x, lift)``: ``T(x) = points + lift`` with ``lift`` whole periods, all (d, n)."""
        box = self.target_grid
        refuse_forked()
        out, lift = np.empty(points.shape), np.empty(points.shape)
        start, entries = self._bins
        kernels.invert(self.nodes, self.axes, self.strides, self._permutations, box.lower, box.lengths / self.shape,
                       self.shape, np.array(self.grid.periodic), start, entries, points, out, lift)
        return out, lift

    def wrapped(self, points, grid):
        """Points (d, n) brought back into the box of ``grid`` on periodic axes."""
        for axis, wraps in enumerate(grid.periodic):
            if wraps:
                length = grid.lengths[axis]
                points[axis] -= length * np.floor((points[axis] - grid.lower[axis]) / length)
        return points

    @cached_property
    def _folds(self):
        nodes = self.nodes.reshape(self.dimension, *self.shape + 2)
        count = np.empty(self.shape[0] + 1, dtype=np.int64)
        (folds.folded_rows_2d if self.dimension == 2 else folds.folded_rows_3d)(nodes, count)
        slabs = np.flatnonzero(count)
        slabs = slabs[slabs >= self._first[0]]
        if not len(slabs):
            return np.empty((0, self.dimension), dtype=np.int64), np.empty(0)
        widths = (self.shape + 1 - self._first)[1:]
        out = np.empty((len(slabs), int(widths.prod())))
        folds.folded(self.nodes, self.strides, self._permutations, self.shape, self._first, slabs, out)
        slab, place = np.nonzero(out)
        cells = np.stack([slabs[slab], *(index + first for index, first
                                         in zip(np.unravel_index(place, tuple(widths)), self._first[1:]))], axis=1)
        return cells, out[slab, place]

    def folded_cells(self):
        """Lattice cells (m, d) that are folded, cell 0 beginning at the lower face, and which fraction of each is."""
        return self._folds

    def unfolded(self, source_values):
        """The map with its folds straightened: nodes of folded simplices move towards the mean of their neighbours.

        Those that carry little of the source first, so that the mass stays where it is; repeated, on a slowly growing
        neighbourhood, until no simplex is turned over, all else untouched. Barycentric nodes make a piecewise affine
        map one-to-one in the plane (Tutte 1963, How to draw a graph); in space it usually works too.
        """
        nodes, shape = self.nodes.copy(), self.shape
        (cells, chosen), seen = np.empty((2, nodes.shape[1]), dtype=np.int64), np.zeros(nodes.shape[1], dtype=np.int64)
        velocity, change = np.zeros(nodes.shape), np.empty(nodes.shape)
        start = self.folded_cells()[0] @ np.array(self.strides)
        weight, mean = source_values.ravel(), source_values.mean()
        cells[:len(start)], count = start, len(start)
        left = UNFOLDING_WORK[0] + UNFOLDING_WORK[1] * source_values.size
        for begin in range(0, folds.SWEEPS, STRIDE):
            count, left = folds.straighten(
                nodes, cells, count, begin, begin + STRIDE, weight, mean, left, self._first, self.strides, shape,
                np.array(self.grid.periodic), self.periods, self._permutations, chosen, seen, velocity, change)
            if not count or left < 0:
                break
        combine(1.0, nodes, -1.0, self.nodes)
        displacement = np.stack([advanced(part, 1.0, moved[(slice(1, -1),) * self.dimension]) for part, moved
                                 in zip(self.displacement, nodes.reshape(self.dimension, *shape + 2))])
        result = PiecewiseAffineMap(self.grid, self.target_grid, displacement)
        result.straightened_mass = self.folded_mass(source_values)
        return result

    def folded_mass(self, source_values):
        """Source mass in folded simplices."""
        cells, fraction = self.folded_cells()
        volume, index = np.ones(len(cells)), []
        for a in range(self.dimension):
            volume *= self.axes[a][cells[:, a] + 1] - self.axes[a][cells[:, a]]
            index.append(np.clip(cells[:, a] - 1, 0, self.shape[a] - 1))
        return float((source_values[tuple(index)] * volume * fraction).sum())

    def deposited(self, mass, grid, smooth, time=1.0, widest=1.0):
        """Mass of the source cells moved by ``(1 - time) x + time T(x)`` onto the cells of ``grid``; the total is kept.

        ``widest``: images wider than this many cells (at most 1) are cut where they do not lie in one.
        """
        refuse_forked()
        nodes = self.nodes
        if time != 1.0:
            positions = np.meshgrid(*[self.axes[a, :n + 2] for a, n in enumerate(self.shape)], indexing="ij")
            nodes = (1 - time) * np.stack(positions).reshape(self.dimension, -1) + time * nodes
        parts = PARTS if grid.size * PARTS < mass.size else 1  # each part has a copy of the target's cells
        out = np.zeros((parts, grid.size))
        axes, strides, shape, _, spacing, periodic = self._geometry
        ends = np.array([[axis[1] - axis[0], axis[n + 1] - axis[n]] for axis, n in zip(axes, shape)])
        kernels.deposit(nodes, strides, shape, ends < 0.75 * spacing[:, None], periodic,
                        np.ascontiguousarray(mass).ravel(), grid.lower, grid.spacing, tuple(grid.shape), smooth, widest,
                        out)
        return out.sum(axis=0).reshape(grid.shape)

    def misplaced_mass(self, source_values, target_values, finely=False, decide=True):
        """Fraction of the mass that the map leaves in the wrong block of about ``BLOCK`` cells per axis of the target.

        Half the L1 distance of the pushed and the expected mass, summed over blocks. Where that is not small, images of
        source cells that are wider than a target's cell, and straddle two blocks, are cut into pieces; into finer ones
        near the limit of 2 % (which may take a while), if ``decide``. On large grids in 3D mass and map of pairs of
        cells are tried first: where that misplaces little it is what is reported, up to four times too much, of second
        order still. ``finely``: pieces are counted from the start, as masses must be that were corrected by what was
        counted.
        """
        blocks = self.target_grid.with_shape(tuple(max(-(-n // BLOCK), 3 if wraps else 2) for n, wraps
                                                   in zip(self.target_grid.shape, self.target_grid.periodic)))
        wanted = average(target_values, blocks.shape) * blocks.cell_volume

        def distance(widest, moved=self, values=source_values):
            arrived = moved.deposited(values, blocks, False, widest=widest) * moved.grid.cell_volume
            return 0.5 * float(np.abs(arrived - wanted).sum())
        half = None if finely else self.halved(source_values)
        if half:
            error = distance(1.0, *half)
            if error < SMALL_ERROR:
                return error
        error = distance(1 / BLOCK if finely else 1.0)
        if error >= SMALL_ERROR and not finely:
            error = distance(1 / BLOCK)
        return distance(1 / BLOCK**2) if decide and NEAR_THE_LIMIT[0] < error < NEAR_THE_LIMIT[1] else error

    def halved(self, source_values):
        """Map and source of pairs of cells along all axes, where the grid is 3D and large; else None."""
        if self.dimension == 2 or self.grid.size < LARGE:
            return None
        half = self.grid.with_shape(tuple(n // 2 for n in self.grid.shape))
        displacement = np.stack([average(part, half.shape) for part in self.displacement])
        return PiecewiseAffineMap(half, self.target_grid, displacement), average(source_values, half.shape)
