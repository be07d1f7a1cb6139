"""Uniform cell-centred grids on boxes and tori."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Grid:
    """A uniform grid of cells on a box; every axis is no-flux or periodic.

    Cell ``i`` of axis ``a`` is centred at ``lower[a] + (i + 1/2) * spacing[a]``; arrays on the grid are
    ``ij``-indexed (first array axis = first coordinate).

    Parameters
    ----------
    shape : sequence of int
        Cells per axis, two or three axes, at least two cells each (three on periodic axes).
    box : sequence of (lower, upper), optional
        One pair per axis, in the user's length unit; the unit square or cube if omitted.
    periodic : bool or sequence of bool
        Which axes wrap around. The others are no-flux: faces are mapped to faces.

    Raises
    ------
    ValueError
        For another number of axes, an axis of fewer than two cells, or a box with ``upper <= lower``.

    Examples
    --------
    >>> grid = Grid((4, 3), box=[(0, 2), (0, 1)])
    >>> [float(h) for h in grid.spacing], grid.size
    ([0.5, 0.3333333333333333], 12)
    >>> grid.centres(0)
    array([0.25, 0.75, 1.25, 1.75])
    """

    shape: tuple
    box: tuple = None
    periodic: tuple | bool = False

    def __post_init__(self):
        try:
            shape = tuple(int(n) for n in self.shape)
            exact = all(int(n) == n for n in self.shape)
        except (TypeError, ValueError):
            shape, exact = (), False
        if not exact or len(shape) not in (2, 3):
            raise ValueError(f"`shape` must be two or three whole numbers of cells, got {self.shape!r}.")
        if min(shape) < 2:
            raise ValueError(f"`shape` must have at least two cells along every axis, got {shape}.")
        box = ((0.0, 1.0),) * len(shape) if self.box is None else self.box
        try:
            box = tuple((float(lower), float(upper)) for lower, upper in box)
        except (TypeError, ValueError):
            raise ValueError(f"`box` must be one (lower, upper) pair per axis, got {self.box!r}.") from None
        if len(box) != len(shape):
            raise ValueError(f"`box` must have one (lower, upper) pair per axis: {len(shape)} axes, {len(box)} pairs.")
        if not all(np.isfinite(pair).all() and pair[1] > pair[0] for pair in box):
            raise ValueError(f"`box` must have finite lower < upper on every axis, got {box}.")
        periodic = (self.periodic,) * len(shape) if np.ndim(self.periodic) == 0 else tuple(self.periodic)
        if len(periodic) != len(shape):
            raise ValueError(f"`periodic` must be one flag or one per axis, got {self.periodic!r} for {len(shape)} "
                             f"axes.")
        if any(wraps and n < 3 for wraps, n in zip(periodic, shape)):
            raise ValueError(f"`shape` must have at least three cells along a periodic axis, got {shape}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "periodic", tuple(bool(flag) for flag in periodic))

    @property
    def ndim(self):
        return len(self.shape)

    @cached_property
    def size(self):
        """Number of cells."""
        return int(np.prod(self.shape))

    @cached_property
    def lower(self):
        return np.array([pair[0] for pair in self.box])

    @cached_property
    def lengths(self):
        return np.array([pair[1] - pair[0] for pair in self.box])

    @cached_property
    def spacing(self):
        return self.lengths / np.array(self.shape)

    @cached_property
    def cell_volume(self):
        return float(np.prod(self.spacing))

    def centres(self, axis):
        """Cell centres along one axis, shape ``(shape[axis],)``."""
        return self.lower[axis] + (np.arange(self.shape[axis]) + 0.5) * self.spacing[axis]

    def cell_centres(self):
        """All cell centres, shape ``(d, *shape)``."""
        return np.stack(np.meshgrid(*(self.centres(axis) for axis in range(self.ndim)), indexing="ij"))

    def with_shape(self, shape):
        """The same box and boundary with another number of cells."""
        return Grid(shape, self.box, self.periodic)

    def coarsened(self, smallest):
        """Half the cells (rounded up) along every axis that keeps at least ``smallest``."""
        return self.with_shape(tuple((n + 1) // 2 if (n + 1) // 2 >= smallest else n for n in self.shape))
