"""The transport problem: source, target and their boxes, checked and normalised."""
from __future__ import annotations

import copy

import numpy as np

from .density import GridDensity, LogDensity, checked_values, floored, is_smooth
from .grid import Grid
from .reductions import logarithm
from .transfer import average, interpolate_inside

ZERO_FLOOR, FLOOR_MASS = 1e-4, 1e-3
"""Floor of densities with zeros where none is given, relative to the maximum, and at most to the mean: it adds far less
mass than what counts as a failure, also where a peak holds most of it."""


class TransportProblem:
    """Find the convex ``u`` with ``det D2u(x) nu(grad u(x)) = mu(x)`` and ``grad u(source box) = target box``.

    Parameters
    ----------
    source, target : array_like, GridDensity or LogDensity
        Densities, any normalisation. An array holds cell averages (values at the cell centres: pass a
        :class:`GridDensity` with ``points=True``); source and target may have different shapes.
        The source is needed at the cell centres of ``grid`` only; the target is evaluated at ``grad u``. Averages of
        smooth densities are turned into values at the centres (:meth:`GridDensity.at_centres`), those of a source only
        where the target is smooth too: the equation holds at the centres, or on the average over cells.
    grid : Grid, optional
        The source's box, spacing and boundary, and the grid of the solution. An array without it lives on the unit
        square or cube with no-flux faces. Required where the source is a :class:`LogDensity`.
    target_grid : Grid, optional
        The same for the target (default: the box of the source with the target's own number of cells).
        An axis must be periodic on both sides with equal periods, or on neither.
    floor : float, optional
        Densities are replaced by ``max(density, floor * max)`` before they are normalised. By default 0, and where a
        density has zeros (the equation takes logarithms) 1e-4, or less where that would add more than a thousandth to
        the mass of either, which stands for the limit of a vanishing one. ``floor_mass`` says what it added.
        Where the source is zero the map is then not determined by the transport, only continued by the limit: see
        ``source_support``; what the target has where it is zero receives that part of the source alone. An explicit
        0 keeps zeros, for :func:`pmapde.sinkhorn`; the equation then refuses them.
    interpolation : {"cubic", "linear"}, optional
        How a target *array* is interpolated; see :class:`GridDensity`.

    Attributes
    ----------
    grid, target_grid : Grid
    source_values : ndarray
        The normalised source at the cells, at their centres if it is smooth:
        ``source_values.sum() * grid.cell_volume == 1``.
    floor_mass : tuple of float
        What the floor added to the source and to the target, relative to the mass they then have (arrays).
    source_is_pointwise, target_is_pointwise : bool
        Whether the values are those at the centres of the cells, not averages.
    source_log_mass, target_log_mass : float
        Logarithms of the masses before normalisation.
    source_support : ndarray of bool
        The cells of the source with mass, before the floor: where the map is determined.
    ndim : int

    Raises
    ------
    TypeError, ValueError
        One sentence naming the argument, what was received and what to do.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> problem = pmapde.TransportProblem(np.ones((8, 8)), 1 + np.random.default_rng(1).random((12, 10)))
    >>> problem
    TransportProblem(2D, source (8, 8) on [0, 1] x [0, 1], target (12, 10) on [0, 1] x [0, 1], no-flux)
    """

    def __init__(self, source, target, *, grid=None, target_grid=None, floor=None, interpolation=None):
        if floor is not None and not (isinstance(floor, (int, float, np.number)) and 0 <= floor < 1):
            raise ValueError(f"`floor` must be a number in [0, 1), got {floor!r}.")
        for name, value in (("grid", grid), ("target_grid", target_grid)):
            if value is not None and not isinstance(value, Grid):
                raise TypeError(f"`{name}` must be a pmapde.Grid, got {type(value).__name__}.")
        source, self.grid = placed(source, grid, None, "source", None)
        target, self.target_grid = placed(target, target_grid, self.grid, "target", interpolation)
        if floor is None:
            floor = zero_floor([side.values for side in (source, target) if isinstance(side, GridDensity)])
        self.floor = float(floor)
        self.floor_mass = tuple(_added(side, self.floor) for side in (source, target))
        self.source_support = (source.values > 0 if isinstance(source, GridDensity)
                               else np.ones(self.grid.shape, bool))
        self._check_boxes()
        self.averages = {"source": None, "target": None}  # where the values are others
        if isinstance(target, GridDensity):
            self.target_log_mass, averages = target.log_mass, target.normalised(self.floor)
            self.target = averages.at_centres().normalised()
            if self.target.points and not averages.points:
                self.averages["target"] = averages.values
        else:
            values, self.target_log_mass, _ = _sampled(target, self.target_grid, self.floor, "target")
            self.target = _Normalised(target, self.target_log_mass, np.log(values.min()) if self.floor else -np.inf)
            self._target_samples = values
        averages = not (self.target_is_pointwise or self.target.is_uniform)
        self.source_values, self.source_log_mass, self.source_is_pointwise = _sampled(
            source, self.grid, self.floor, "source", averages)
        self.source_values.flags.writeable = False
        if isinstance(source, GridDensity) and self.source_is_pointwise and not source.points:
            self.averages["source"] = source.normalised(self.floor).values
        self._source = source
        self._zeros = {"source": _zeros(self.source_values), "target": _zeros(self.target_values)}

    def refuse_zeros(self):
        """The equation takes logarithms: a ValueError if a density has cells without mass."""
        for name, (zeros, size) in self._zeros.items():
            if zeros:
                raise ValueError(f"`{name}` is zero in {zeros} of {size} cells and the equation needs its logarithm; "
                                 f"pass a positive floor, for instance floor=1e-3 (relative to the maximum).")

    def _check_boxes(self):
        grid, target_grid = self.grid, self.target_grid
        if grid.ndim != target_grid.ndim:
            raise ValueError(f"`source` and `target` must have the same number of axes, "
                             f"got {grid.ndim} and {target_grid.ndim}.")
        if grid.periodic != target_grid.periodic:
            raise ValueError(f"`grid` and `target_grid` must be periodic along the same axes, "
                             f"got {grid.periodic} and {target_grid.periodic}.")
        for axis, wraps in enumerate(grid.periodic):
            if wraps and not np.isclose(grid.lengths[axis], target_grid.lengths[axis], rtol=1e-12):
                raise ValueError(f"a periodic axis needs equal periods in `grid` and `target_grid`: axis {axis} has "
                                 f"{grid.lengths[axis]:g} and {target_grid.lengths[axis]:g}.")

    @property
    def ndim(self):
        return self.grid.ndim

    @property
    def source_is_function(self):
        """Whether the source was given as a :class:`LogDensity`."""
        return isinstance(self._source, LogDensity)

    @property
    def target_is_pointwise(self):
        """As ``source_is_pointwise``."""
        return not isinstance(self.target, GridDensity) or self.target.points and not self.target.is_rough()

    @property
    def is_rough(self):
        """Whether a density jumps by more than ``density.ROUGH`` between cells: its averages are all there is then."""
        return not self.source_is_pointwise or self.target.is_rough()

    @property
    def is_smooth(self):
        """Whether both densities look smooth on their grids, :func:`~pmapde.density.is_smooth`."""
        return (is_smooth(self.source_values, self.grid.periodic)
                and (self.target.is_uniform or is_smooth(self.target_values, self.target_grid.periodic)))

    @property
    def target_values(self):
        """The normalised target at the cells of ``target_grid``, at their centres if it is smooth."""
        return self.target.values if isinstance(self.target, GridDensity) else self._target_samples

    @property
    def source_masses(self):
        """What masses of the source's cells are counted with: the averages that were given, :attr:`source_values` where
        there are none. Of a peak a few cells wide the two differ by per cents."""
        return self.source_values if self.averages["source"] is None else self.averages["source"]

    @property
    def target_masses(self):
        """As ``source_masses``."""
        return self.target_values if self.averages["target"] is None else self.averages["target"]

    @property
    def slopes(self):
        """Per axis, the slope of the affine map ``grad q`` of source box onto target box (1 on periodic axes)."""
        return np.where(self.grid.periodic, 1.0, self.target_grid.lengths / self.grid.lengths)

    @property
    def offsets(self):
        """Per axis ``grad q`` at the lower face: the target's lower face (the source's own on periodic axes)."""
        return np.where(self.grid.periodic, self.grid.lower, self.target_grid.lower)

    def quadratic(self, points):
        """``q`` at points (d, ...): its gradient takes the source box affinely onto the target box."""
        shape = (-1,) + (1,) * (points.ndim - 1)
        slopes, offsets, lower = (value.reshape(shape) for value in (self.slopes, self.offsets, self.grid.lower))
        return (slopes * (points - lower) ** 2 / 2 + offsets * points).sum(axis=0)

    def displacement_potential(self, potential, name="start"):
        """``potential - q``, both at the cell centres, its mean kept; ``name`` is what a refusal calls it."""
        values = np.asarray(potential)
        if values.shape != self.grid.shape or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite values of a potential, real numbers on the grid of shape "
                             f"{self.grid.shape}, got shape {values.shape} and dtype {values.dtype}.")
        return values - self.quadratic(self.grid.cell_centres())

    def swapped(self):
        """The problem from target to source, whose map is the inverse."""
        target = GridDensity(self.source_values, self.grid, points=self.source_is_pointwise)
        source = GridDensity(self.target_values, self.target_grid, points=self.target_is_pointwise)
        other = TransportProblem(source, target, grid=self.target_grid, target_grid=self.grid, floor=0.0)
        other.averages = {"source": self.averages["target"], "target": self.averages["source"]}
        other.floor, other.floor_mass = self.floor, self.floor_mass[::-1]
        return other

    def with_source(self, values, name="source"):
        """The same grid and target with another source, given by what :attr:`source_values` are: nothing is done to
        ``values`` but that they are normalised."""
        other, density = copy.copy(self), GridDensity(checked_values(values, name), self.grid, points=True)
        other.source_values, other.source_log_mass, _ = _sampled(density, self.grid, 0.0, name, False)
        other.source_values.flags.writeable = False
        other.averages = {**self.averages, "source": None}
        other._source, other._zeros = density, {name: _zeros(other.source_values), "target": self._zeros["target"]}
        return other

    @property
    def may_be_powered(self):
        """Whether :meth:`powered` can: densities on a grid that are not both uniform."""
        return isinstance(self.target, GridDensity) and not (self.target.is_uniform and np.ptp(self.source_values) == 0)

    def weighted(self, weights):
        """The same problem with the source multiplied by positive ``weights``, and normalised: as an equation only,
        its source as a density stays what it was."""
        changed = copy.copy(self)
        values = self.source_values * weights
        changed.source_values = values / (values.sum() * self.grid.cell_volume)
        return changed

    def powered(self, power):
        """The same problem with both densities raised to a power, and normalised: 0 makes them uniform."""
        def raised(values):
            return (values / values.max()) ** power
        changed = copy.copy(self)
        changed.averages = {"source": None, "target": None}
        values = raised(self.source_values)
        changed.source_values = values / (values.sum() * self.grid.cell_volume)
        changed.target = GridDensity(raised(self.target.values), self.target.grid, self.target.interpolation,
                                     self.target.points).normalised()
        return changed

    def on_grid(self, grid, pointwise=False, log_source=None):
        """The same problem on a coarser grid of the source box; from grid to grid, each from the next finer one.

        Values at the centres of the cells (or, ``pointwise``, all) are interpolated (fourth order, in the logarithm),
        averages are averaged. So is a target that is rough on the scale of the coarser cells, and the source with it; a
        smooth one stays as it is, so that solutions on successive grids differ by the discretisation of one and the
        same problem. ``log_source``: the logarithm of the source, up to a constant, if it is known.
        """
        coarse = copy.copy(self)
        coarse.grid, coarse.averages = grid, {"source": None, "target": None}
        ratio = max(m / n for m, n in zip(self.target_grid.shape, grid.shape))  # target cells in the image of a cell
        averaged = isinstance(self.target, GridDensity) and self.target.is_rough(ratio)
        if pointwise or self.source_is_function or self.source_is_pointwise and not averaged:
            logs = logarithm(self.source_values, 0.0)[0] if log_source is None else log_source
            logs = interpolate_inside(logs, grid.shape, grid.periodic)
            values = np.exp(logs - logs.max())
            coarse.source_values = values / (values.sum() * grid.cell_volume)
        else:
            coarse.source_values = average(self.source_values, grid.shape)
        if averaged:
            shape = tuple(max(2, min(m, -(-m * n // full))) for m, n, full
                          in zip(self.target_grid.shape, grid.shape, self.grid.shape))
            coarse.target_grid = self.target_grid.with_shape(shape)
            coarse.target = self.target.on_grid(coarse.target_grid)
        return coarse

    def __repr__(self):
        def box(grid):
            return " x ".join(f"[{lower:g}, {upper:g}]" for lower, upper in grid.box)
        flags = set(self.grid.periodic)
        boundary = str(self.grid.periodic) if len(flags) == 2 else "periodic" if True in flags else "no-flux"
        return (f"TransportProblem({self.ndim}D, source {self.grid.shape} on {box(self.grid)}, "
                f"target {self.target_grid.shape} on {box(self.target_grid)}, {boundary})")


def check_problem(problem):
    """Refuse what is no :class:`TransportProblem`."""
    if not isinstance(problem, TransportProblem):
        raise TypeError(f"`problem` must be a pmapde.TransportProblem, got {type(problem).__name__}.")


class _Normalised:
    """A :class:`LogDensity` minus its log mass, no lower than ``lowest``."""

    is_uniform = False
    interpolation = "cubic"  # of its samples, once it is saved

    def __init__(self, density, log_mass, lowest):
        self.density, self.log_mass, self.lowest = density, log_mass, lowest

    @staticmethod
    def is_rough():
        return False  # a function is taken to be smooth on the grid's scale

    def log_density_by_component(self, points, gradient):
        value, slope = self.density.log_density_by_component(points, gradient)
        value = value - self.log_mass
        if gradient:
            slope = np.where(value > self.lowest, slope, 0.0)
        return np.maximum(value, self.lowest), slope


def _zeros(values):
    """How many of how many values are zero."""
    return int((values == 0).sum()), values.size


def zero_floor(arrays):
    """The floor of densities where none is given: 0 if there are no zeros."""
    if not any(values.min() == 0 for values in arrays):
        return 0.0
    return min(ZERO_FLOOR, FLOOR_MASS * min(float((values / values.max()).mean()) for values in arrays))


def _added(density, floor):
    """The share of its mass that a density owes to the floor."""
    if not (isinstance(density, GridDensity) and floor):
        return 0.0
    values = density.values / density.values.max()
    raised = floored(values, floor)
    return float((raised - values).sum() / raised.sum())


def placed(density, grid, box_from, name, interpolation):
    """The argument as a density and the grid it lives on."""
    if isinstance(density, LogDensity):
        grid = grid or box_from
        if grid is None:
            raise ValueError(f"`grid` is needed where `{name}` is a LogDensity: pass grid=pmapde.Grid(shape, box).")
        return density, grid
    if isinstance(density, GridDensity):
        if grid is not None and grid != density.grid:
            raise ValueError(f"`{name}` is a GridDensity on its own grid; leave its `grid` argument out "
                             f"or pass the same grid.")
        if interpolation is not None and interpolation != density.interpolation:
            density = GridDensity(density.values, density.grid, interpolation, density.points)
        return density, density.grid
    values = checked_values(density, name)
    if grid is None and box_from is not None and values.ndim == box_from.ndim:
        grid = box_from.with_shape(values.shape)
    grid = grid or Grid(values.shape)
    if grid.shape != values.shape:
        raise ValueError(f"`{name}` of shape {values.shape} does not fit its grid of shape {grid.shape}.")
    return GridDensity(values, grid, interpolation or "cubic"), grid


def _sampled(density, grid, floor, name, averages=True):
    """Normalised values at the cells of ``grid``, the log mass before floor and normalisation, and whether these are
    values at the centres of the cells: not where ``averages`` are to stay such."""
    if isinstance(density, GridDensity):
        log_mass = density.log_mass
        density = density.normalised(floor)
        if not averages:
            density = density.at_centres().normalised()
        values, pointwise = density.values, density.points
    else:
        log_values = density.log_density(grid.cell_centres().reshape(grid.ndim, -1).T).reshape(grid.shape)
        bad = ~np.isfinite(log_values)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"`{name}`: the log-density must be finite on the box, got {log_values[where]} at the "
                             f"centre of cell {where}; choose a box inside its support.")
        highest = log_values.max()
        values = np.exp(log_values - highest)
        log_mass = float(highest + np.log(values.sum() * grid.cell_volume))
        values, pointwise = GridDensity(values, grid).normalised(floor).values, True
    return np.array(values), log_mass, pointwise
