"""What came out of a solve: map, costs, potentials, and the evidence for them."""
from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

import numpy as np

from .conservation import LIMIT
from .dual import kantorovich_dual, settled
from .problem import TransportProblem
from .reductions import rms
from .status import Status
from .superbases import NARROW
from .transfer import average
from .transport import PiecewiseAffineMap, component_first


class StencilWarning(UserWarning):
    """The Hessian is more anisotropic than the stencil resolves on a notable part of the source mass."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of :func:`pmapde.solve`; complete when built.

    Attributes
    ----------
    problem : TransportProblem
    status : Status
    success : bool
    displacement_potential : ndarray, (*shape)
        ``phi = u - q`` at the cell centres.
    potential : ndarray, (*shape)
        Brenier potential ``u``, zero mean under the source. Second order.
    displacement : ndarray, (d, *shape)
        ``T(x) - x`` at the cell centres (length units). Second order; fourth on smooth data with ``extrapolate="map"``.
    cost, w2 : float
        ``W2^2`` and its square root. ``stats["cost"]`` says how it was found: the integral of ``|T(x) - x|^2`` over
        the source ("map", second order), extrapolated with ``extrapolate`` ("extrapolated", fourth order on smooth
        data), or, where data are rough on the scale of the cells so that the map misplaces mass, :attr:`dual_cost`
        ("dual", in no-flux boxes). Of the swapped problem where that was solved.
    cost_error, map_error : float
        Estimates of the discretisation error of ``cost`` and of the map (L2 under the source), extrapolated or not,
        from the solutions on the coarser grids; NaN where there are not enough of them, or an axis is too short to be
        coarsened. What a stencil too narrow for the Hessian adds (:attr:`narrow_mass`), which no change from grid to
        grid shows, is part of them. Extrapolated from three grids only they are no smaller than without. Where the map
        misplaces more than 0.1 % of the mass (on smooth data 0.5 %) ``cost_error`` is no less than what its cost and
        the dual differ by.
    algebraic_error : float
        Estimate of what the iteration left: the distance (RMS of the map) to the solution of the discrete equations.
        Infinite where the residual alone ended the iteration.
    extrapolation : str
        What :func:`pmapde.solve` was asked to extrapolate and did ("cost", "map"), or why not; "none" if not asked.
    residual, tolerance : float
        RMS of the mean-free log residual, and the goal it was driven to (0: the algebraic error decided).
    drift : float
        Mean of the log residual: the discrete mass imbalance, O(h^2).
    margin : float
        Smallest second difference of ``u`` relative to ``q``'s; positive: discretely convex.
    narrow_mass : float
        Source mass of cells where the Hessian is more anisotropic than the stencil resolves, after wider
        superbases were tried (a :class:`StencilWarning` is given above 5 %).
    folded_mass : float
        Source mass of simplices where the map is not injective.
    straightened_mass : float
        Source mass of simplices where ``grad u``, sampled at the cells, was not injective, before they were unfolded.
    push_forward_error : float
        Fraction of the mass that the map leaves in the wrong block of 8 cells per axis of the target grid (where it is
        below 0.4 % on a large grid in 3D, up to four times too large). More than 2 % is a failure,
        ``Status.MASS_MISPLACED``.
    subdivision : int
        Parts per axis into which the cells were cut to put the mass in its place; 1 usually. The map between the cell
        centres is then that of the finer cells.
    swapped : bool
        Whether the swapped problem was solved, and its map inverted: residual, history and the like are then its own.
    blur : float
        0 where the map is that of the equation. Where neither the equation nor the swapped one puts the mass in its
        place: ``sqrt(epsilon)``, a length of about a cell or less (where the boxes differ, between the widths of the
        source's and the target's), of the entropic plan whose barycentric projection the map then is; ``residual`` and
        ``map_error`` are NaN, ``history`` is that of the equation.
    history : dict of ndarray
        One entry per implicit step: ``level, cells, residual, drift, dt, damping, newton_iterations, rejected,
        applications``.
    stats : dict
        Counters, fallbacks, seconds per phase, and ``work`` per grid in work units: the cost of applying the linearised
        operator once on the finest grid (counted, with the relative costs of the kernels in ``pmapde.work``); of the
        equation that was taken. ``attempts`` (but with ``conserve=False``) has status, work, of all equations in units
        of the problem's grid, and seconds, of this process, of every attempt.
    """

    problem: TransportProblem
    status: Status
    scheme: str
    displacement_potential: np.ndarray
    displacement: np.ndarray
    cost: float
    cost_error: float
    map_error: float
    algebraic_error: float
    extrapolation: str
    residual: float
    tolerance: float
    drift: float
    margin: float
    narrow_mass: float
    folded_mass: float
    straightened_mass: float
    push_forward_error: float
    subdivision: int
    swapped: bool
    blur: float
    history: dict
    stats: dict
    transport_map: PiecewiseAffineMap = field(repr=False)

    @classmethod
    def build(cls, problem, operator, phi, status, steps, stats, coarser, extrapolate, judged=None):
        """From the problem, the operator (on finer cells perhaps), the displacement potential, the records of the
        engine, the solutions on coarser grids, and the map with its misplaced mass if the engine knows them."""
        last, grid, subdivision = steps[-1], operator.grid, operator.grid.shape[0] // problem.grid.shape[0]
        transport_map, misplaced = judged or (None, None)
        displacement = transport_map.displacement if judged else operator.displacement(phi)
        change = last.change if last.grid.shape == grid.shape else math.nan
        inconsistency = operator.inconsistency(phi) if status.success else 0.0
        extrapolation = coarser.extrapolation(operator, displacement, change, extrapolate if status.success else None,
                                              inconsistency, last.error)
        if extrapolation.displacement is not displacement or not judged:
            transport_map, misplaced = PiecewiseAffineMap(grid, problem.target_grid, extrapolation.displacement), None
        transport_map, status, checks = checked(transport_map, operator.problem.source_masses, problem.target_masses,
                                                status, misplaced)
        if last.status is Status.CONVERGED:
            residual, drift = last.residual, last.drift
        else:  # the engine's may be those of the extended operator, or of another grid
            log_residual = operator.residual(phi)
            drift = float(log_residual.mean())
            residual = rms(log_residual - drift) if math.isfinite(drift) else math.nan
        margin, narrow = operator.checks(phi)
        if narrow > NARROW:
            warnings.warn(f"the Hessian of the potential is too anisotropic for the stencil on {narrow:.1%} of the "
                          f"source mass; the map is inconsistent there: compare with a finer grid or a larger floor.",
                          StencilWarning, stacklevel=3)
        names = ("level", "residual", "drift", "error", "change", "dt", "damping", "newton_iterations", "rejected",
                 "applications")
        history = {name: np.array([getattr(step, name) for step in steps]) for name in names}
        history["cells"] = np.array([step.grid.size for step in steps])
        if subdivision > 1:
            phi = average(phi, problem.grid.shape)
        cost, cost_error, how = settled(problem, phi, extrapolation.cost, extrapolation.cost_error,
                                        checks["push_forward_error"])
        if how == "map" and extrapolation.note in ("cost", "map"):
            how = "extrapolated"
        return cls(problem=problem, status=status, scheme=operator.scheme, displacement_potential=phi,
                   displacement=at_centres(transport_map, problem.grid), cost=cost, cost_error=cost_error,
                   map_error=extrapolation.map_error, algebraic_error=last.error, extrapolation=extrapolation.note,
                   residual=residual, tolerance=float(last.tolerance), drift=drift, margin=margin, narrow_mass=narrow,
                   subdivision=subdivision, swapped=False, blur=0.0, history=history,
                   stats=plain({**stats, "cost": how, "stencil_error": inconsistency}),
                   transport_map=transport_map, **checks)

    @property
    def success(self):
        return self.status.success

    @property
    def w2(self):
        return math.sqrt(self.cost)

    @cached_property
    def _centred_potential(self):
        """``u`` with zero mean under the source, and the constant taken off."""
        grid = self.problem.grid
        u = self.problem.quadratic(grid.cell_centres()) + self.displacement_potential
        mean = float((u * self.problem.source_values).sum()) * grid.cell_volume
        return u - mean, mean

    @property
    def potential(self):
        return self._centred_potential[0]

    @cached_property
    def dual_potential(self):
        """``u*(y) = <x, y> - u(x)`` with ``y = T(x)``, at the cell centres of the target grid. Second order.

        ``|x|^2/2 - u`` and ``|y|^2/2 - u*`` are the Kantorovich potentials: half the gradient of W2^2 in the densities.
        """
        grid = self.problem.target_grid
        y = grid.cell_centres().reshape(grid.ndim, -1)
        x, lift = self.transport_map.inverse(y)
        lattice = PiecewiseAffineMap(self.problem.grid, grid, self.displacement)
        u = self.problem.quadratic(x) + lattice.interpolate(self.displacement_potential, x)
        # on periodic axes u* - |y|^2/2 is what is periodic
        dual = ((x * (y + lift)).sum(axis=0) - u + self._centred_potential[1]
                + ((y**2 - (y + lift) ** 2) / 2).sum(axis=0))
        return dual.reshape(grid.shape)

    def map(self, points):
        """``T(points)``, (n, d) to (n, d): the displacement at the cell centres, piecewise affine between them.

        A homeomorphism of source box onto target box where no simplex is folded, see
        :class:`~pmapde.transport.PiecewiseAffineMap`. Points outside a no-flux box are moved to it first.
        """
        image = self.transport_map.forward(component_first(points, self.problem.ndim))
        return self.transport_map.wrapped(image, self.problem.target_grid).T

    def inverse_map(self, points):
        """``T^-1(points)``, (n, d) to (n, d), exact inverse of :meth:`map` (one preimage where it is folded)."""
        preimage, _ = self.transport_map.inverse(component_first(points, self.problem.ndim))
        return self.transport_map.wrapped(preimage, self.problem.grid).T

    def jacobian(self, points):
        """``DT(points)``, (n, d) to (n, d, d): that of :meth:`map`, constant on every simplex. First order.

        Its determinant is positive where the map is not folded, and it integrates to the volume of the target box.
        """
        return self.transport_map.jacobian(component_first(points, self.problem.ndim)).transpose(2, 0, 1)

    def geodesic(self, points, s):
        """Particles of the displacement interpolation (McCann 1997): ``(1 - s) x + s T(x)``, (n, d) to (n, d)."""
        _check_time(s)
        x = component_first(points, self.problem.ndim)
        return self.transport_map.wrapped((1 - s) * x + s * self.transport_map.forward(x), self.problem.grid).T

    def push_forward(self, density=None):
        """Density of ``T_# density`` on the target grid; carries the whole mass, blurred by about half a cell.

        ``density``: cell averages on the source grid, any sign and mass; the source by default.
        """
        grid = self.problem.target_grid
        values = self.problem.source_values if density is None else _field(density, self.problem.grid)
        return _carried(self.transport_map, self._masses(values), grid)

    def pull_back(self, density=None):
        """Density of ``(T^-1)_# density`` on the source grid: ``density(T(x)) det DT(x)``, averaged over the cells.

        The mass of ``density`` (cell averages on the target grid; the target by default), carried back by the parts
        of its cells; all of it arrives. Blurred by about half a cell.
        """
        problem = self.problem
        values = problem.target_values if density is None else _field(density, problem.target_grid)
        grid, back = problem.target_grid, self._inverse_lattice
        return _carried(back, values * grid.cell_volume, problem.grid)

    @cached_property
    def _inverse_lattice(self):
        """``T^-1`` sampled at the target's cell centres and continued like ``T``."""
        problem, grid = self.problem, self.problem.target_grid
        y = grid.cell_centres().reshape(grid.ndim, -1)
        x, lift = self.transport_map.inverse(y)
        return PiecewiseAffineMap(grid, problem.grid, (x - lift - y).reshape(grid.ndim, *grid.shape))

    @cached_property
    def kantorovich_potentials(self):
        """``(f, g)`` on the source and the target grid: the gradient of ``cost`` in the two densities.

        ``f(x) = |x|^2 - 2 u(x)``, ``g(y) = |y|^2 - 2 u*(y)``: ``f(x) + g(y) <= |x - y|^2`` with equality on the graph
        of the map, ``cost`` the integral of ``f`` over the source plus that of ``g`` over the target, and the
        derivative of ``cost`` along a change of the source of zero mass its integral against ``f`` (Santambrogio 2015,
        Optimal Transport for Applied Mathematicians, Proposition 7.17). No-flux axes; second order.
        """
        grids, fields = (self.problem.grid, self.problem.target_grid), (self.potential, self.dual_potential)
        return tuple((grid.cell_centres()**2).sum(axis=0) - 2 * u for grid, u in zip(grids, fields))

    @cached_property
    def dual_cost(self):
        """W2^2 once more: the Kantorovich dual ``int (|x|^2 - 2 u**) dmu + int (|y|^2 - 2 u*) dnu`` at the potential.

        ``u*`` and ``u**`` are Legendre transforms of the potential on up to 512^2 cells, 101^3 in 3D, between whose
        centres they are of third order; the densities are constant on the grid's cells. No pair of potentials has a
        larger value (Villani 2003, Topics in Optimal Transportation, Theorem 1.3): what is wrong with the potential
        makes it too small, and counts squared (but for the interpolation: tenths of a per cent where the map jumps,
        several where the transport is far shorter than a cell). On data that are rough on the scale of the cells it is
        several times as accurate as the map's own cost.

        Raises
        ------
        ValueError
            On periodic axes.
        """
        if any(self.problem.grid.periodic):
            raise ValueError("`dual_cost` is for no-flux boxes, this problem is periodic; use `cost`.")
        return kantorovich_dual(self.problem, self.displacement_potential)

    def _masses(self, density):
        """Masses of the cells of the map: the grid's, or their parts."""
        mass = density * self.transport_map.grid.cell_volume
        for axis in range(mass.ndim):
            mass = np.repeat(mass, self.subdivision, axis)
        return mass

    def interpolate(self, s):
        """Density of the displacement interpolation ``((1 - s) x + s T(x))_# source``, ``0 <= s <= 1``.

        On a grid with the source's number of cells; its box moves from the source's to the target's with ``s``.
        """
        _check_time(s)
        problem = self.problem
        box = [((1 - s) * a + s * c, (1 - s) * b + s * d)
               for (a, b), (c, d) in zip(problem.grid.box, problem.target_grid.box)]
        grid = type(problem.grid)(problem.grid.shape, box, problem.grid.periodic)
        mass = self._masses(problem.source_values)
        return self.transport_map.deposited(mass, grid, True, float(s)) / grid.cell_volume

    def sample(self, n, rng):
        """``n`` independent draws of the target, (n, d): draws of the source, mapped."""
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"`rng` must be a numpy.random.Generator, for instance numpy.random.default_rng(), "
                            f"got {type(rng).__name__}.")
        grid = self.problem.grid
        cumulative = np.cumsum(self.problem.source_values.ravel())
        cells = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        index = np.stack(np.unravel_index(np.minimum(cells, grid.size - 1), grid.shape), axis=1)
        return self.map(grid.lower + (index + rng.random((n, grid.ndim))) * grid.spacing)

    def save(self, path):
        """Write everything to one .npz file (never pickled); :func:`pmapde.load` reads it."""
        from .storage import save
        save(self, path)

    def summary(self):
        """The scalars and counters as a dict that JSON can hold; None where a number is not finite."""
        names = ("success", "scheme", "cost", "w2", "cost_error", "map_error", "algebraic_error", "extrapolation",
                 "residual", "tolerance", "drift", "margin", "narrow_mass", "folded_mass", "straightened_mass",
                 "push_forward_error", "subdivision", "swapped", "blur")
        rows = {name: plain(getattr(self, name)) for name in names}
        rows = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in rows.items()}
        return {"status": self.status.name, "message": self.status.value, "source_shape": list(self.problem.grid.shape),
                "target_shape": list(self.problem.target_grid.shape), **rows, "stats": self.stats}

    def __str__(self):
        stats = self.stats
        linear = ", ".join(f"{name} ({counts['applications']} applications, {counts['setups']} set-ups)"
                           for name, counts in stats["linear"].items()) or "none needed"
        rows = [("problem", repr(self.problem)[len("TransportProblem("):-1]),
                ("status", f"{self.status.name}: {self.status.value}"),
                ("W2^2, W2", f"{self.cost:.8g} (+- {self.cost_error:.1e}), {self.w2:.8g}"
                             + (", by the Kantorovich dual" if stats.get("cost") == "dual" else "")),
                ("errors", f"map {self.map_error:.1e} by the grid, {self.algebraic_error:.1e} by the iteration "
                           f"(estimates)"
                           + ("" if self.extrapolation == "none" else f"; extrapolated: {self.extrapolation}")),
                ("residual", f"{self.residual:.2e}" + (f" (goal {self.tolerance:.2e})" if self.tolerance else "")
                             + f", drift {self.drift:.2e}"),
                ("checks", f"misplaced mass {self.push_forward_error:.2%}, folded {self.folded_mass:.2%} "
                           f"(straightened {self.straightened_mass:.2%}), stencil too narrow "
                           f"{self.narrow_mass:.2%}, margin {self.margin:.2e}"),
                ("work", f"{stats['newton_iterations']} Newton steps, {stats['rejected_steps']} refused; {linear}"
                         + (f"; {sum(stats['work'].values()):.1f} work units" if stats["work"] else "")),
                ("seconds", ", ".join(f"{name} {value:.2f}" for name, value in stats["seconds"].items()))]
        if self.blur:
            rows.insert(2, ("entropic", f"the map is the barycentric projection of an entropic plan, its blur "
                                        f"{self.blur:.3g}, on cells cut into {self.subdivision} an axis"))
        if max(self.problem.floor_mass) > 0:
            source, target = self.problem.floor_mass
            rows.insert(1, ("floor", f"{self.problem.floor:.3g} of the maxima; it is {source:.2%} of the source's, "
                                     f"{target:.2%} of the target's mass"))
        attempts = stats.get("attempts", ())
        if len(attempts) > 1:
            units, seconds = (sum(tried.get(name, math.nan) for tried in attempts) for name in ("work", "seconds"))
            rows.append(("attempts", f"{len(attempts)}, {units:.1f} work units and {seconds:.2f} seconds in all"))
        rows += [("fallback", text) for text in stats["fallbacks"]]
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


def _check_time(s):
    if not (isinstance(s, Real) and 0 <= s <= 1):
        raise ValueError(f"`s` must be between 0 (source) and 1 (target), got {s!r}.")


def _field(values, grid):
    """Real, finite values on the cells of ``grid``."""
    values = np.asarray(values)
    if values.shape != grid.shape or values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise ValueError(f"`density` must be finite numbers of shape {grid.shape}, one a cell, "
                         f"got shape {values.shape} and dtype {values.dtype}.")
    return values.astype(float)


def _carried(transport_map, mass, grid):
    """Density on ``grid`` of masses of either sign (the kernel moves positive ones)."""
    arrived = transport_map.deposited(np.maximum(mass, 0.0), grid, True)
    if mass.min() < 0:
        arrived -= transport_map.deposited(np.maximum(-mass, 0.0), grid, True)
    return arrived / grid.cell_volume


def checked(transport_map, source_values, target_values, status, misplaced=None, finely=False):
    """The map without its folds, the status it deserves, and what was found, by the names of :class:`Solution`, from
    the masses of a problem's cells. Where ``status`` is a failure already nothing is done that may take long: folds
    stay, masses are not counted as finely as near their limit.

    ``misplaced``: the mass that the map misplaces, if it is known; ``finely``: how it is counted if it is not.
    """
    folded, solved = transport_map.folded_mass(source_values), status is Status.CONVERGED
    if folded and solved:
        transport_map, misplaced = transport_map.unfolded(source_values), None
        folded = transport_map.folded_mass(source_values)
    straightened = transport_map.straightened_mass
    if misplaced is None:
        finely = finely or straightened > 0
        misplaced = transport_map.misplaced_mass(source_values, target_values, finely, decide=solved)
    if solved:
        status = Status.MASS_MISPLACED if not misplaced <= LIMIT else Status.FOLDED if folded else status
    return transport_map, status, {"folded_mass": folded, "straightened_mass": straightened,
                                   "push_forward_error": misplaced}


def at_centres(transport_map, grid):
    """``T(x) - x`` at the cell centres of ``grid``, which may be coarser than the map's own."""
    if grid.shape == transport_map.grid.shape:
        return transport_map.displacement
    centres = grid.cell_centres()
    return transport_map.forward(centres.reshape(grid.ndim, -1)).reshape(centres.shape) - centres


def plain(value):
    """numpy scalars and nested containers as plain Python, for JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
