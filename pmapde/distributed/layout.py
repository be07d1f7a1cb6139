"""A grid cut into one box per rank (PETSc's DMDA): ghost layers, global numbers, sums, transfer between layouts."""
from __future__ import annotations

import itertools
import math

import numpy as np

from ..ghosts import fold
from ..grid import Grid
from ..transfer import cubic_table, interpolate_by_tables

SMALLEST = 2
"""Cells per axis of a box: what :class:`Grid` allows."""


def partition(shape, ranks):
    """Boxes per axis, at least ``SMALLEST`` cells wide, with the least surface between them; None if there are none.

    Of equals the one that leaves the last axis whole: rows of memory stay long.
    """
    best, least = None, math.inf
    for parts in itertools.product(*([p for p in range(1, n // SMALLEST + 1) if ranks % p == 0] for n in shape)):
        if math.prod(parts) == ranks:
            surface = sum((p - 1) / n for p, n in zip(parts, shape))
            if surface < least:
                best, least = parts, surface
            elif surface == least and parts > best:
                best = parts
    return best


class Layout:
    """The boxes of ``grid`` on the ranks of ``comm``. Local arrays are C-ordered, without ghosts.

    Attributes
    ----------
    grid : Grid
    ranges : tuple of (first, last + 1)
        Per axis, the cells of this rank.
    shape : tuple
    """

    def __init__(self, grid, comm):
        from petsc4py import PETSc
        parts = partition(grid.shape, comm.size)
        if parts is None:
            raise ValueError(f"a grid of {'x'.join(map(str, grid.shape))} cells cannot be cut into {comm.size} boxes "
                             f"of at least {SMALLEST} cells along every axis; start fewer ranks or take a finer grid.")
        if grid.size > np.iinfo(PETSc.IntType).max:
            raise ValueError(f"PETSc counts at most {np.iinfo(PETSc.IntType).max} cells as it is built, the grid has "
                             f"{grid.size}; use a PETSc with 64-bit indices.")
        kinds = PETSc.DM.BoundaryType
        # PETSc's first axis is the one whose neighbours are next to each other in memory: our last
        self.dm = PETSc.DMDA().create(
            dim=grid.ndim, dof=1, sizes=grid.shape[::-1], proc_sizes=parts[::-1],
            boundary_type=[kinds.PERIODIC if wraps else kinds.GHOSTED for wraps in grid.periodic[::-1]],
            stencil_type=PETSc.DMDA.StencilType.BOX, stencil_width=1, comm=comm)
        self.grid, self.comm, self.parts = grid, comm, parts
        self.ranges = tuple(self.dm.getRanges()[::-1])
        self.shape = tuple(last - first for first, last in self.ranges)
        self.size = math.prod(self.shape)
        self._cuts = [np.concatenate([[0], np.cumsum(widths)]) for widths in self.dm.getOwnershipRanges()[::-1]]
        widths = [np.diff(cuts).astype(np.int64) for cuts in self._cuts]
        self._widths = widths
        cells = widths[0]
        for more in widths[1:]:
            cells = np.multiply.outer(cells, more)
        self._starts = np.concatenate([[0], np.cumsum(cells.ravel())[:-1]])
        self._global, self._local = self.dm.createGlobalVec(), self.dm.createLocalVec()

    def box(self):
        """The cells of this rank as a :class:`Grid`; no axis of it is periodic."""
        low, h = self.grid.lower, self.grid.spacing
        return Grid(self.shape, [(low[a] + first * h[a], low[a] + last * h[a])
                                 for a, (first, last) in enumerate(self.ranges)])

    def vector(self):
        return self._global.duplicate()

    def pad(self, field, out):
        """``out``: the local ``field`` with one ghost layer, from the neighbouring ranks or even about the faces."""
        self._global.setArray(field.ravel())
        self.dm.globalToLocal(self._global, self._local)
        out[...] = self._local.getArray(readonly=True).reshape(out.shape)
        for axis, (first, last) in enumerate(self.ranges):
            if not self.grid.periodic[axis]:
                view = np.moveaxis(out, axis, 0)
                if first == 0:
                    view[0] = view[1]
                if last == self.grid.shape[axis]:
                    view[-1] = view[-2]
        return out

    def numbers(self, *axes):
        """PETSc's numbers of the cells whose indices along every axis are given, (len(axes[0]), ...)."""
        rank, place = 0, 0
        for axis, index in enumerate(np.ix_(*axes)):
            part = np.searchsorted(self._cuts[axis], index, side="right") - 1
            rank = rank * self.parts[axis] + part
            place = place * self._widths[axis][part] + (index - self._cuts[axis][part])
        return self._starts[rank] + place

    def neighbours(self):
        """Numbers of the cells of this rank and of what the ghost layer around them stands for."""
        return self.numbers(*(fold(np.arange(first - 1, last + 1), n, wraps) for (first, last), n, wraps
                              in zip(self.ranges, self.grid.shape, self.grid.periodic)))

    def fetch(self, field, *axes):
        """Values of a distributed field at the given indices, from whatever ranks; collective."""
        from petsc4py import PETSc
        numbers = self.numbers(*axes)
        self._global.setArray(field.ravel())
        values = PETSc.Vec().createSeq(numbers.size, comm=PETSc.COMM_SELF)
        index = PETSc.IS().createGeneral(numbers.ravel().astype(PETSc.IntType), comm=PETSc.COMM_SELF)
        scatter = PETSc.Scatter().create(self._global, index, values, None)
        scatter.scatter(self._global, values)
        return values.getArray().reshape(numbers.shape).copy()

    def gather(self, field):
        """The whole field on rank 0, None elsewhere."""
        first = self.comm.rank == 0
        values = self.fetch(field, *(np.arange(n if first else 0) for n in self.grid.shape))
        return values if first else None

    def interpolate(self, field, finer):
        """``field`` on another layout, by tensor-product cubics as :func:`pmapde.transfer.interpolate_cubic`."""
        tables, needed = [], []
        for axis, (first, last) in enumerate(finer.ranges):
            index, weight = cubic_table(self.grid.shape[axis], finer.grid.shape[axis], self.grid.periodic[axis])
            used, place = np.unique(index[first:last], return_inverse=True)
            needed.append(used)
            tables.append((place.reshape(-1, 4), np.ascontiguousarray(weight[first:last])))
        return interpolate_by_tables(self.fetch(field, *needed), finer.shape, tables)

    def interpolated(self, field, grid):
        """This rank's box of the same interpolant of a field that every rank has whole, on ``grid``."""
        tables = [tuple(np.ascontiguousarray(part[first:last]) for part in cubic_table(m, n, wraps))
                  for m, n, wraps, (first, last) in zip(grid.shape, self.grid.shape, self.grid.periodic, self.ranges)]
        return interpolate_by_tables(field, self.shape, tables)

    @property
    def faces(self):
        """Per axis, whether this rank's box begins and ends at a no-flux face."""
        return [(not wraps and first == 0, not wraps and last == n) for (first, last), n, wraps
                in zip(self.ranges, self.grid.shape, self.grid.periodic)]

    @property
    def slices(self):
        return tuple(slice(*pair) for pair in self.ranges)

    def sum(self, *values):
        """Sums over the ranks, the same on all of them."""
        total = np.empty(len(values))
        self.comm.Allreduce(np.array(values, float), total)
        return total if len(values) > 1 else float(total[0])

    def largest(self, value):
        from mpi4py import MPI
        return self.comm.allreduce(value, op=MPI.MAX)

    def moments(self, mean, rms):
        """Mean and RMS deviation of a field over all ranks from those on each (Chan, Golub & LeVeque 1983)."""
        size = self.grid.size
        total = self.sum(mean * self.size) / size
        return total, math.sqrt(self.sum(self.size * (rms**2 + (mean - total) ** 2)) / size)

    def gradient_norm(self, padded):
        """RMS over all cells of the forward differences of a padded field (none across no-flux faces)."""
        inside, squares = (slice(1, -1),) * padded.ndim, 0.0
        for axis, h in enumerate(self.grid.spacing):
            ahead = tuple(slice(2, None) if b == axis else slice(1, -1) for b in range(padded.ndim))
            squares += float(((padded[ahead] - padded[inside]) ** 2).sum()) / h**2
        return math.sqrt(self.sum(squares) / self.grid.size)
