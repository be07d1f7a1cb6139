"""What a rank knows of a transport problem: its box of the source, and the target."""
from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from ..cell_splines import centre_values
from ..density import ROUGH, GridDensity, LogDensity, largest_jump
from ..grid import Grid
from ..memory import BYTES_PER_CELL, available_memory
from ..problem import TransportProblem
from ..transfer import apply_axes, averaging_matrix
from ..transport import BLOCK
from .launch import agree
from .layout import Layout, partition
from .target import SlicedDensity

MATRIX_BYTES = {2: 700, 3: 1800}
"""Bytes per cell of the assembled matrix, its algebraic hierarchy and the Krylov vectors."""
FRAME = {2: 1024, 3: 128}
"""Cells per axis at which a target that no rank holds is known to all, at most."""


@dataclass(frozen=True, eq=False)
class Masses:
    """A target as masses are compared with it; ``target_masses`` may be averages over several cells of
    ``target_grid``, ``BLOCK / 2`` along every axis."""

    ndim: int
    target_grid: Grid
    target_masses: np.ndarray


@dataclass(frozen=True, eq=False)
class Block:
    """The problem on one rank's box: what :class:`~pmapde.monge_ampere.MongeAmpere` asks of a problem."""

    layout: Layout
    grid: Grid
    source_values: np.ndarray
    source_masses: np.ndarray
    target: object
    slopes: np.ndarray
    offsets: np.ndarray

    @property
    def ndim(self):
        return self.grid.ndim

    def weighted(self, weights):
        """As of :class:`TransportProblem`; collective."""
        values = self.source_values * weights
        return replace(self, source_values=values / (self.layout.sum(float(values.sum())) * self.grid.cell_volume))

    @staticmethod
    def refuse_zeros():
        """They were looked for in the whole source."""


def block_of(problem, layout):
    """The :class:`Block` of this rank of a :class:`TransportProblem` or :class:`SampledProblem` on its grid."""
    values, masses = (problem.values(layout) if isinstance(problem, SampledProblem)
                      else [np.ascontiguousarray(whole[layout.slices])
                            for whole in (problem.source_values, problem.source_masses)])
    frame = problem.frame if isinstance(problem, SampledProblem) else problem
    first = np.array([pair[0] for pair in layout.ranges])
    return Block(layout, layout.box(), values, masses, problem.target, frame.slopes,
                 frame.offsets + frame.slopes * layout.grid.spacing * first)


class SampledProblem:
    """A transport problem whose source no rank ever holds whole.

    Parameters
    ----------
    source : LogDensity or array-like
        A function, evaluated by every rank at the cells of its box; or cell averages that are read in slices, for
        instance ``numpy.load(path, mmap_mode="r")``, of the grid's or any other shape. Positive, any normalisation.
        Turned into values at the centres as in a :class:`~pmapde.TransportProblem`.
    target : LogDensity, SlicedDensity, GridDensity or array_like
        A function, or a :class:`~pmapde.distributed.SlicedDensity`, of which every rank reads what the images of its
        cells touch; others as for :class:`~pmapde.TransportProblem`, and whole on every rank.
    grid : Grid
    target_grid : Grid, optional
        Of a function.

    Notes
    -----
    Memory: a target that every rank holds whole costs it 8 bytes a target cell for its values and 8 for its
    coefficients, 24 if it is rough: 2 GB a rank at 512^3. A function costs nothing; its masses are known by its values
    at the centres of at most 1024^2 or 128^3 cells.
    """

    is_smooth = False  # not known: the scheme that does not need it

    def __init__(self, source, target, *, grid, target_grid=None):
        if not isinstance(grid, Grid):
            raise TypeError(f"`grid` must be a pmapde.Grid, got {type(grid).__name__}.")
        if not isinstance(source, LogDensity) and len(getattr(source, "shape", ())) != grid.ndim:
            raise ValueError(f"`source` must be a LogDensity or an array of {grid.ndim} axes, got "
                             f"{getattr(source, 'shape', type(source).__name__)}.")
        self.source, self.grid, self._target = source, grid, target
        small = grid.with_shape(tuple(min(n, FRAME[grid.ndim]) for n in grid.shape))
        if isinstance(target, SlicedDensity):
            if target_grid is not None:
                raise ValueError("`target_grid` is that of the SlicedDensity; leave it out.")
            fine = target.grid
            coarse, blocks = (fine.with_shape(tuple(min(n, m) for n, m in zip(fine.shape, shape))) for shape in (
                (FRAME[grid.ndim],) * grid.ndim, tuple(2 * max(-(-n // BLOCK), 3) for n in fine.shape)))
            known, masses = target.averages(coarse, blocks)
            self.frame = TransportProblem(np.ones(small.shape), known, grid=small, floor=0.0)
            self.masses = Masses(grid.ndim, fine, masses.values)
        else:
            self.frame = TransportProblem(np.ones(small.shape), target, grid=small, target_grid=target_grid, floor=0.0)
            fine = self.frame.target_grid
            if isinstance(target, LogDensity) and target_grid is None:  # sampled coarsely, judged finely
                fine = fine.with_shape(grid.shape)
            self.masses = Masses(grid.ndim, fine, self.frame.target_masses)
        self.frame.refuse_zeros()

    @property
    def ndim(self):
        return self.grid.ndim

    @property
    def target(self):
        return self._target if isinstance(self._target, SlicedDensity) else self.frame.target

    def on_grid(self, grid):
        """The same densities on another grid of the box."""
        other = copy.copy(self)
        other.grid = grid
        return other

    def values(self, layout):
        """The normalised source in this rank's box, and what its masses are counted with; collective."""
        return self._sampled(layout)[:2]

    def _sampled(self, layout):
        """The same, and whether the first are values at the centres of the cells."""
        pointwise = isinstance(self.source, LogDensity)
        if pointwise:
            box = layout.box()
            logs = self.source.log_density(box.cell_centres().reshape(box.ndim, -1).T).reshape(box.shape)
        else:
            averages = self._averages(layout)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log(averages)
        good, error = np.isfinite(logs), None
        if not good.all():
            where = tuple(int(first + i) for i, (first, _) in zip(np.argwhere(~good)[0], layout.ranges))
            error = ValueError(f"`source` must be positive and finite, it is not at cell {where} of "
                               f"{'x'.join(map(str, layout.grid.shape))}; add a floor to it.")
        agree(layout.comm, error)
        if not pointwise and (self.target.is_uniform or self._target_is_pointwise):
            padded = layout.pad(averages, np.empty([n + 2 for n in layout.shape]))
            pointwise = layout.largest(largest_jump(padded[_without_ends(layout)])) < ROUGH
            if pointwise:
                logs = np.log(centre_values(padded, layout.faces))
        values = np.exp(logs - layout.largest(float(logs.max())))
        masses = values if isinstance(self.source, LogDensity) or not pointwise else averages
        values, masses = (field / (layout.sum(float(field.sum())) * layout.grid.cell_volume)
                          for field in (values, masses))
        return values, masses, pointwise

    @property
    def _target_is_pointwise(self):
        return not self._target.is_rough() if isinstance(self._target, SlicedDensity) else (
            self.frame.target_is_pointwise)

    def _averages(self, layout):
        """Cell averages over this rank's cells of an array that may be of another shape."""
        matrices = [averaging_matrix(m, n)[first:last] for m, n, (first, last)
                    in zip(self.source.shape, layout.grid.shape, layout.ranges)]
        spans = [(int(matrix.indices.min()), int(matrix.indices.max()) + 1) for matrix in matrices]
        values = np.asarray(self.source[tuple(slice(*span) for span in spans)], dtype=float)
        return apply_axes([matrix[:, low:high] for matrix, (low, high) in zip(matrices, spans)], values)

    def whole(self, comm):
        """A :class:`TransportProblem` of a grid that rank 0 can hold, None elsewhere; collective."""
        from mpi4py import MPI
        if partition(self.grid.shape, comm.size):
            layout = Layout(self.grid, comm)
        elif comm.rank:
            return None
        else:
            layout = Layout(self.grid, MPI.COMM_SELF)
        values, masses, pointwise = self._sampled(layout)
        values, masses = layout.gather(values), layout.gather(masses)
        if values is None:
            return None
        function = isinstance(self._target, LogDensity)
        found = TransportProblem(GridDensity(values, layout.grid, points=pointwise),
                                 self._target if function else self.frame.target,
                                 target_grid=self.frame.target_grid if function else None)
        found.averages = {"source": masses, "target": self.frame.averages["target"]}
        return found


def _without_ends(layout):
    """A padded field but for what lies beyond a face."""
    return tuple(slice(0, n + 2) if wraps else slice(first == 0, n + 2 - (last == total))
                 for (first, last), n, total, wraps
                 in zip(layout.ranges, layout.shape, layout.grid.shape, layout.grid.periodic))


def refuse_oversized(grid, comm):
    """:class:`MemoryError` on all ranks where those of one machine need more than it has."""
    from mpi4py import MPI
    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    cell = BYTES_PER_CELL[grid.ndim] + 8 * grid.ndim + MATRIX_BYTES[grid.ndim]  # with the drift
    needed = here.size * -(-grid.size // comm.size) * cell
    available = available_memory()
    here.Free()
    error = None
    if needed > available:
        error = MemoryError(f"a grid of {'x'.join(map(str, grid.shape))} cells on {comm.size} ranks needs about "
                            f"{needed / 2**30:.1f} GiB on a machine and {available / 2**30:.1f} GiB are available; "
                            f"use more machines or a coarser `grid`.")
    agree(comm, error)
