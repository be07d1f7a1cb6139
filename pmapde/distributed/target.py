"""A target density that no rank holds whole: every rank reads what the images of its cells touch."""
from __future__ import annotations

import itertools
import math

import numpy as np

from ..cell_splines import (
    DECAY,
    at_images,
    at_knots,
    centre_values,
    multilinear,
    over_images,
    spline_coefficients,
)
from ..density import ROUGH, GridDensity, largest_jump
from ..ghosts import fold
from ..grid import Grid
from ..transfer import apply_axes, averaging_matrix
from .launch import agree, communicator, together

HALO = DECAY + 1
"""Cells read around a window."""
MARGIN = 1 / 16
"""Of its width, by which a window is larger than the images need: Newton steps move them a little."""
CHUNK = 2**24
"""Cells that a rank reads at a time, about and without their halo, where everything is read once."""


class SlicedDensity:
    """A density given by cell averages that are read in slices; for the target of a
    :class:`~pmapde.distributed.SampledProblem`.

    Every rank keeps the part that the images of its own cells lie in, and reads another when they leave it. Made on all
    ranks together: they share the reading of the whole array, once, for its mass, its smallest value and its roughness.

    Parameters
    ----------
    values : array-like, two or three axes
        Positive cell averages, any normalisation: what has a ``shape`` and can be sliced, for instance
        ``numpy.load(path, mmap_mode="r")`` of a file that all ranks see.
    grid : Grid, optional
        Where the cells are; the unit square or cube if omitted.
    comm : mpi4py communicator, optional

    Raises
    ------
    TypeError, ValueError
        On all ranks, for what is no positive density.

    Notes
    -----
    Interpolated as a :class:`~pmapde.GridDensity`: cubic, or averaged over the images where it is rough. Memory: 8
    bytes a cell of the window (24 if rough), whose cells are those of the target divided by the number of ranks, and a
    halo of ``HALO`` cells while it is read.
    """

    def __init__(self, values, grid=None, comm=None):
        self.values, self._comm, self._windows = values, comm or communicator(), {}
        self.grid = together(self._comm, lambda: _checked(values, grid))
        self._measure()

    def _measure(self):
        """Sum, extremes and roughness of all values, and the sum of their spline at the centres of the cells."""
        from mpi4py import MPI
        total, splined, lowest, highest, jump, error = 0.0, 0.0, math.inf, 0.0, 0.0, None
        try:
            for first, last in self._chunks():
                around, inside, faces = self._around([(first, last), *((0, n) for n in self.grid.shape[1:])])
                own = around[inside]
                if not (np.isfinite(own).all() and own.min() > 0):
                    raise ValueError("`values` must be positive and finite, they are not "
                                     f"in rows {first} to {last - 1}; add a floor to them.")
                total, lowest, highest = total + own.sum(), min(lowest, own.min()), max(highest, own.max())
                splined += at_knots(self._splined(around, faces))[inside].sum()
                more = [last < self.grid.shape[0] or self.grid.periodic[0], *self.grid.periodic[1:]]
                onwards = tuple(slice(own.start, own.stop + further) for own, further in zip(inside, more))
                jump = max(jump, largest_jump(around[onwards]))
        except Exception as found:  # whatever reading brings
            error = found
        agree(self._comm, error)
        total, splined = (self._comm.allreduce(value) for value in (total, splined))
        self.lowest = self._comm.allreduce(lowest, op=MPI.MIN)
        self.highest = self._comm.allreduce(highest, op=MPI.MAX)
        self.roughness = self._comm.allreduce(float(jump), op=MPI.MAX)
        with np.errstate(all="ignore"):
            self._scale = 1 / np.float64(total * self.grid.cell_volume)
            self._scale_of_spline = 1 / np.float64(splined * self.grid.cell_volume)
        if not all(0 < scale < math.inf for scale in (self._scale, self._scale_of_spline)):
            raise ValueError(f"`values` between {self.lowest:.3g} and {self.highest:.3g} have a sum out of range; "
                             f"scale them first.")

    @staticmethod
    def _centred(around, faces):
        """Values at the centres of the cells of a window, were it smooth."""
        return centre_values(np.pad(around, 1, mode="edge"), faces)

    def _splined(self, around, faces):
        """Coefficients of the spline through them."""
        return spline_coefficients(self._centred(around, faces), (False,) * around.ndim)[0]

    def _chunks(self):
        """Ranges of this rank along the first axis."""
        n, ranks, rank = self.grid.shape[0], self._comm.size, self._comm.rank
        begin, end = n * rank // ranks, n * (rank + 1) // ranks
        step = max(HALO, CHUNK // math.prod(self.grid.shape[1:]))
        return [(first, min(first + step, end)) for first in range(begin, end, step)]

    def _around(self, ranges):
        """Values in ``ranges`` and ``HALO`` cells around as far as the grid goes, the slices of the ranges in them, and
        whether they end at faces, per axis."""
        wide, inside, faces = [], [], []
        for (first, last), n, wraps in zip(ranges, self.grid.shape, self.grid.periodic):
            low, high = (HALO, HALO) if wraps else (min(HALO, first), min(HALO, n - last))
            wide.append((first - low, last + high))
            inside.append(slice(low, low + last - first))
            faces.append((not wraps and first == low, not wraps and last + high == n))
        return self._read(wide, 0), tuple(inside), faces

    def _read(self, ranges, halo):
        """Values in ``ranges`` and ``halo`` cells around, continued evenly about no-flux faces; a periodic range may
        begin and end anywhere."""
        spans, pieces, places = [], [], []
        for (first, last), n, wraps in zip(ranges, self.grid.shape, self.grid.periodic):
            low, high = first - halo, last + halo
            indices = np.arange(low, high)
            if wraps:
                edges = [low, *range(n * (low // n + 1), high, n), high]
                pieces.append([(slice(a - low, b - low), slice(a % n, a % n + b - a))
                               for a, b in zip(edges, edges[1:])])
                places.append(indices - low)
            else:
                indices = fold(indices, n, False)
                low, high = int(indices.min()), int(indices.max()) + 1
                pieces.append([(slice(0, high - low), slice(low, high))])
                places.append(indices - low)
            spans.append(high - low)
        found = np.empty(spans)
        for combination in itertools.product(*pieces):
            inside, there = zip(*combination)
            found[inside] = self.values[there]
        for axis, place in enumerate(places):
            found = np.take(found, place, axis=axis)
        return found

    def averages(self, *grids):
        """Its :class:`GridDensity`, normalised, on small grids of the same box, on all ranks; collective."""
        totals = [np.zeros(grid.shape) for grid in grids]
        for first, last in self._chunks():
            values = self._scale * self._read([(first, last), *((0, n) for n in self.grid.shape[1:])], 0)
            for grid, total in zip(grids, totals):
                along, *across = [averaging_matrix(m, n) for m, n in zip(self.grid.shape, grid.shape)]
                total += apply_axes([along[:, first:last], *across], values)
        found = []
        for grid, total in zip(grids, totals):
            everywhere = np.empty_like(total)
            self._comm.Allreduce(total, everywhere)
            found.append(GridDensity(everywhere, grid))
        return found

    @property
    def is_uniform(self):
        return bool(self.lowest == self.highest)

    def is_rough(self, ratio=1.0):
        """As of :class:`GridDensity`."""
        return ratio * self.roughness >= ROUGH

    def log_density_by_component(self, points, gradient):
        """Of a uniform one."""
        return np.full(points.shape[1], math.log(self._scale * self.lowest)), np.zeros_like(points)

    def _window(self, phi, face, step, scale, interpolated):
        """The cells, the box and the arrays for the kernels of a window that holds all images; read anew if the last
        does not."""
        grid, ranges = self.grid, []
        for axis, (n, wraps) in enumerate(zip(grid.shape, grid.periodic)):
            inner = tuple(slice(None) if b == axis else slice(1, -1) for b in range(phi.ndim))
            faces = scale[axis] * np.diff(phi[inner], axis=axis)
            faces += (face[axis] + step[axis] * np.arange(faces.shape[axis])).reshape(
                [-1 if b == axis else 1 for b in range(phi.ndim)])
            ends = [(end - grid.lower[axis]) / grid.spacing[axis] for end in (faces.min(), faces.max())]
            if not all(map(math.isfinite, ends)):  # so will be what is found there
                ends = [0.0, 0.0]
            if not wraps:
                ends = [min(max(end, 0.0), float(n)) for end in ends]
            first, last = math.floor(ends[0]) - 1, math.ceil(ends[1]) + 1
            ranges.append((0, n) if wraps and last - first >= n else (first, last))  # a period holds all images
        known = self._windows.get(interpolated)
        if known is None or any(first < low or last > high for (first, last), (low, high) in zip(ranges, known[0])):
            self._windows.clear()
            known = self._windows[interpolated] = self._load(ranges, interpolated)
        return known

    def _load(self, ranges, interpolated):
        wider = []
        for (first, last), n, wraps in zip(ranges, self.grid.shape, self.grid.periodic):
            margin = 2 + math.ceil(MARGIN * (last - first))
            if wraps:
                wider.append((0, n) if last - first + 2 * margin >= n else (first - margin, last + margin))
            else:
                wider.append((max(first - margin, 0), min(last + margin, n)))
        whole = tuple(wraps and last - first == n for (first, last), n, wraps
                      in zip(wider, self.grid.shape, self.grid.periodic))
        if interpolated:
            around, inside, faces = self._around(wider)
            coefficients = self._scale_of_spline * self._splined(around, faces)
            arrays = (np.ascontiguousarray(coefficients[tuple(slice(own.start, own.stop + 4) for own in inside)]),)
        else:
            arrays = multilinear(self._scale * self._read(wider, 2))
        lower, h = self.grid.lower, self.grid.spacing
        box = Grid(tuple(last - first for first, last in wider), [(lower[a] + first * h[a], lower[a] + last * h[a])
                                                                  for a, (first, last) in enumerate(wider)], whole)
        # at a face of the grid the window ends too: beyond it the density is that of the face; a period has no end
        holds = [(-math.inf, math.inf) if period else
                 (first if wraps or first else -math.inf, last if wraps or last < n else math.inf)
                 for (first, last), n, wraps, period in zip(wider, self.grid.shape, self.grid.periodic, whole)]
        return holds, box, arrays

    def at_images(self, *images_and_out):
        """:func:`pmapde.density.at_images`, for the images of this rank's cells."""
        _, box, (coefficients,) = self._window(*images_and_out[:4], True)
        at_images((coefficients, box.shape, box.periodic, True), box, *images_and_out)

    def over_images(self, *images_and_out):
        """:func:`pmapde.density.over_images`, for the images of this rank's cells."""
        _, box, arrays = self._window(*images_and_out[:4], False)
        over_images(arrays, box, *images_and_out)


def _checked(values, grid):
    """The grid of ``values``, or one sentence on what is wrong."""
    shape, kind = getattr(values, "shape", ()), getattr(getattr(values, "dtype", None), "kind", "f")
    if len(shape) not in (2, 3):
        raise ValueError(f"`values` must be an array of two or three axes, got "
                         f"{getattr(values, 'shape', type(values).__name__)}.")
    if kind not in "fiu":
        raise TypeError(f"`values` must be real numbers, got dtype {values.dtype}; convert them first.")
    grid = Grid(tuple(shape)) if grid is None else grid
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a pmapde.Grid, got {type(grid).__name__}.")
    if grid.shape != tuple(shape):
        raise ValueError(f"`values` of shape {tuple(shape)} do not fit `grid` of shape {grid.shape}.")
    return grid
