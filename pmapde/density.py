"""Densities: values on a grid, or a log-density given as a function; normalisation, floors, interpolation."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .cell_splines import at_images, at_knots, centre_values, extended, multilinear, over_images, spline_coefficients
from .grid import Grid
from .threads import refuse_forked
from .transfer import average

ROUGH = 0.5
"""A target whose logarithm jumps by more between neighbouring cells is averaged over the images of the source cells."""
SMOOTH_FALL = 2.5
"""Of second differences over half the stride: 4 on smooth data, 2.8 at kinks, 1.4 at jumps, 1 on noise."""
BUNDLES, BUNDLE = 8, 4
"""Of lines along an axis that are looked at for that: neighbours share their way through memory."""


def checked_values(values, name):
    """``values`` as a fresh C-ordered float64 array of two or three axes, or one sentence on what is wrong."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must be an array of real numbers, got dtype {array.dtype}; convert it first.")
    if array.ndim not in (2, 3):
        raise ValueError(f"`{name}` must have two or three axes, got shape {array.shape}.")
    if min(array.shape) < 2:
        raise ValueError(f"`{name}` must have at least two cells along every axis, got shape {array.shape}.")
    array = np.array(array, dtype=np.float64, order="C")
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"`{name}` must be finite, got {array[where]} at {where} ({int(bad.sum())} such cells); "
                         f"replace or mask them first.")
    if array.min() < 0:
        where = tuple(int(i) for i in np.unravel_index(array.argmin(), array.shape))
        raise ValueError(f"`{name}` must be non-negative, got {array[where]:.3g} at {where}; "
                         f"clip it or subtract its minimum first.")
    if array.max() == 0:
        raise ValueError(f"`{name}` must have positive mass, got zeros everywhere.")
    return array


def floored(values, floor):
    """``max(values, floor * max(values))``: the density ``floor`` of the glossary."""
    return np.maximum(values, floor * values.max()) if floor else values


def largest_jump(values, periodic=None):
    """Between neighbouring cells, of the logarithm; infinity next to a zero. ``periodic``: axes whose ends are
    neighbours."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
        jumps = [np.abs(np.diff(logs, axis=axis)).max(initial=0.0) for axis in range(logs.ndim)]
        jumps += [np.abs(logs.take(0, axis) - logs.take(-1, axis)).max()
                  for axis, wraps in enumerate(periodic or ()) if wraps]
    return float(np.nan_to_num(max(jumps), nan=np.inf))


def is_smooth(values, periodic):
    """Whether the second differences (RMS) of a 2D density fall as on smooth data: from a sixteenth of the grid to its
    cells on average, and over the last halving. Not on fewer than 16 cells an axis, where that cannot be seen.

    Kinks may pass, and what was interpolated from a coarser grid; pictures and fields that jump do not. Looked at along
    some bundles of lines: a narrow spot between them is not seen.
    """
    strides = [1, 2]
    if min(values.shape) < 16:
        return False
    while 32 * strides[-1] <= min(values.shape):
        strides.append(2 * strides[-1])
    squares, scale = np.zeros(len(strides)), float(values.max())
    for axis, wraps in enumerate(periodic):
        first = np.linspace(0, values.shape[1 - axis] - BUNDLE, BUNDLES).astype(int)
        lines = np.take(values, np.add.outer(first, np.arange(BUNDLE)).ravel(), axis=1 - axis) / scale
        if wraps:
            lines = np.concatenate([lines, lines[:2 * strides[-1]] if axis == 0 else lines[:, :2 * strides[-1]]], axis)
        for index, stride in enumerate(strides):
            differences = np.diff(lines[::stride] if axis == 0 else lines[:, ::stride], 2, axis)
            squares[index] += float((differences**2).mean())  # no BLAS: its threads would spin beside numba's
    sizes, rounding = np.sqrt(squares), 16 * np.finfo(float).eps
    return all(sizes[0] <= sizes[last] / SMOOTH_FALL**last + rounding for last in (1, len(strides) - 1))


@dataclass(frozen=True, eq=False)
class GridDensity:
    """A density given by its cell averages on a grid, or its values at the cell centres, any normalisation.

    Between the cell centres the *density*, not its logarithm, is interpolated by a positive spline.

    Parameters
    ----------
    values : array_like, two or three axes
        Non-negative cell averages; copied, never modified.
    grid : Grid, optional
        Where the cells are; the unit square or cube if omitted.
    interpolation : {"cubic", "linear"}
        ``"linear"``: multilinear through the values, even about no-flux faces, continuous, second order. ``"cubic"``:
        the cubic spline through the values at the cell centres (:meth:`at_centres`), twice continuously
        differentiable, fourth order (third at no-flux faces, where it ends as a parabola); coefficients below half the
        smallest or above twice the largest of the values around are moved there (the mass is restored by a factor), so
        it stays positive and smooth data are left alone. A rough target (``ROUGH``) is multilinear for the solver
        whatever is chosen, and averaged exactly.
    points : bool
        The values are those of a smooth density at the cell centres, a function that was sampled, say. Averages differ
        from them by a 24th of the second differences.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, shape, sign, non-finite values or zero mass; the message names the first cell.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> density = pmapde.GridDensity(np.ones((8, 8)))
    >>> density.log_density(np.array([[0.2, 0.7]]))
    array([0.])
    """

    values: np.ndarray
    grid: Grid | None = None
    interpolation: str = "cubic"
    points: bool = False

    def __post_init__(self):
        values = checked_values(self.values, "values")
        values.flags.writeable = False
        grid = Grid(values.shape) if self.grid is None else self.grid
        if not isinstance(grid, Grid):
            raise TypeError(f"`grid` must be a pmapde.Grid, got {type(grid).__name__}.")
        if grid.shape != values.shape:
            raise ValueError(f"`values` of shape {values.shape} do not fit `grid` of shape {grid.shape}.")
        if self.interpolation not in ("linear", "cubic"):
            raise ValueError(f"`interpolation` must be 'linear' or 'cubic', got {self.interpolation!r}.")
        if not isinstance(self.points, (bool, np.bool_)):
            raise TypeError(f"`points` must be True or False, got {self.points!r}.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "grid", grid)

    @cached_property
    def log_mass(self):
        highest = self.values.max()  # scaled first: sums of huge values overflow
        return float(np.log(highest) + np.log((self.values / highest).sum()) + np.log(self.grid.spacing).sum())

    @cached_property
    def roughness(self):
        """Largest jump of the log-density between neighbouring cells (infinity next to a zero)."""
        return largest_jump(self.values, self.grid.periodic)

    def is_rough(self, ratio=1.0):
        """Whether the logarithm may jump by more than ``ROUGH`` between cells that are ``ratio`` as wide as the
        grid's."""
        return ratio * self.roughness >= ROUGH

    @cached_property
    def is_uniform(self):
        return bool(self.values.min() == self.values.max())

    def normalised(self, floor=0.0):
        """The probability density, after raising values below ``floor * max``."""
        values = floored(self.values / self.values.max(), floor)
        return GridDensity(values / (values.sum() * self.grid.cell_volume), self.grid, self.interpolation, self.points)

    def at_centres(self):
        """The same density by its values at the cell centres, fourth order, where it is smooth.

        Rough ones, and what is interpolated linearly, stay as they are: averages do not say what is inside a cell.
        """
        if self.points or self.interpolation != "cubic" or self.is_uniform or self.is_rough():
            return self
        faces = [(not wraps, not wraps) for wraps in self.grid.periodic]
        values = centre_values(extended(self.values, self.grid.periodic, 1), faces)
        return GridDensity(values, self.grid, self.interpolation, True)

    def on_grid(self, grid):
        """Cell averages on another grid of the same box (exact overlaps)."""
        return GridDensity(average(self.values, grid.shape), grid, self.interpolation)

    @cached_property
    def _coefficients(self):
        """Spline coefficients with their ghost layers."""
        if self.interpolation == "linear":
            return extended(self.values, self.grid.periodic)
        values = self.at_centres().values
        coefficients, clipped = spline_coefficients(values, self.grid.periodic)
        if clipped:
            coefficients *= values.sum() / at_knots(coefficients).sum()
        return coefficients

    def log_density(self, points, gradient=False):
        """Log of the interpolated density at points ``(n, d)``; with ``gradient``, also its gradient ``(n, d)``.

        Points outside a no-flux box take the value at the nearest point of the box.
        """
        value, slope = self.log_density_by_component(np.ascontiguousarray(np.asarray(points, float).T), gradient)
        return (value, slope.T) if gradient else value

    def log_density_by_component(self, points, gradient):
        """The same with component-first arrays ``(d, n)``: ``(value, gradient or None)``."""
        if self.is_uniform:
            return np.full(points.shape[1], np.log(self.values.flat[0])), np.zeros_like(points) if gradient else None
        refuse_forked()
        from .kernels.interpolation import points_2d, points_3d
        kernel = points_2d if self.grid.ndim == 2 else points_3d
        value, slope = np.empty(points.shape[1]), np.empty((self.grid.ndim, points.shape[1] if gradient else 0))
        kernel(*self._spline, self.grid.lower, self.grid.spacing, points, gradient, value, slope)
        return np.log(value, out=value), slope if gradient else None

    @property
    def _spline(self):
        return self._coefficients, self.grid.shape, self.grid.periodic, self.interpolation == "cubic"

    def at_images(self, *images_and_out):
        """:func:`pmapde.cell_splines.at_images` of this density."""
        at_images(self._spline, self.grid, *images_and_out)

    @cached_property
    def _multilinear(self):
        return multilinear(extended(self.values, self.grid.periodic))

    def over_images(self, *images_and_out):
        """:func:`pmapde.cell_splines.over_images` of this density."""
        over_images(self._multilinear, self.grid, *images_and_out)


@dataclass(frozen=True, eq=False)
class LogDensity:
    """A density given by its logarithm as a function of points, any normalisation.

    Parameters
    ----------
    function : callable
        Takes points ``(n, d)``, returns ``log density + constant`` at them, shape ``(n,)``; finite on the whole box.
    gradient : callable, optional
        Takes points ``(n, d)``, returns the gradient of the log-density, ``(n, d)``. Central differences of
        ``function`` are taken if omitted.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> normal = pmapde.LogDensity(lambda x: -0.5 * (x**2).sum(axis=1), gradient=lambda x: -x)
    >>> normal.log_density(np.zeros((1, 2)))
    array([-0.])
    """

    function: Callable
    gradient: Callable | None = None

    def __post_init__(self):
        for name in ("function", "gradient"):
            value = getattr(self, name)
            if not callable(value) and not (name == "gradient" and value is None):
                raise TypeError(f"`{name}` must be callable, got {type(value).__name__}.")

    def log_density(self, points, gradient=False):
        """Values ``(n,)`` at points ``(n, d)``; with ``gradient``, also the gradient ``(n, d)``."""
        points = np.asarray(points, float)
        value = self._call(self.function, points, (len(points),), "function")
        if not gradient:
            return value
        if self.gradient is not None:
            return value, self._call(self.gradient, points, points.shape, "gradient")
        slope = np.empty_like(points)
        # cube root of the rounding unit: the step that balances truncation and rounding of a central difference
        steps = 6e-6 * np.maximum(np.ptp(points, axis=0), 1e-3) if len(points) else np.ones(points.shape[1])
        for axis, step in enumerate(steps):
            shift = np.zeros(points.shape[1])
            shift[axis] = step
            ahead, behind = (self._call(self.function, points + side * shift, (len(points),), "function")
                             for side in (1, -1))
            slope[:, axis] = (ahead - behind) / (2 * step)
        return value, slope

    @staticmethod
    def _call(function, points, shape, name):
        value = np.asarray(function(points))
        if len(points) == 1 and value.shape == shape[1:]:
            value = value[None]  # scipy's distributions drop the axis of a single point
        if value.shape != shape:
            raise ValueError(f"`{name}` of a LogDensity must return shape {shape} for points of shape "
                             f"{points.shape}, all at once, got {value.shape}.")
        if value.dtype.kind not in "fiub":
            raise ValueError(f"`{name}` of a LogDensity must return real numbers, got dtype {value.dtype}.")
        return value.astype(float, copy=False)

    def log_density_by_component(self, points, gradient):
        """As :meth:`GridDensity.log_density_by_component`."""
        if gradient:
            value, slope = self.log_density(points.T, True)
            return value, np.ascontiguousarray(slope.T)
        return self.log_density(points.T), None
