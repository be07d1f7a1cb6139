"""Sinkhorn against the flow: at temperature epsilon, n sweeps are a time ``n epsilon`` of the parabolic equation."""
from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from .density import GridDensity
from .entropic import half_shift, sinkhorn
from .integrators import half_range
from .problem import TransportProblem, check_problem
from .solver import solve
from .stepping import PseudoTransient
from .trajectory import flow
from .transfer import interpolate_cubic, interpolate_inside, with_faces

SMALLEST_BLUR = {"torus": 0.8, "box": 1.5}
"""Cells in sqrt(epsilon) below which Sinkhorn's sums are not the integrals they stand for. The midpoint rule for a
Gaussian is off by ``2 exp(-2 pi^2 blur^2)``, on the torus 7e-6. For one cut off by a face it is of second order only:
``sup`` is off by about 0.065 / blur^2 of itself (measured), 3 % at 1.5 cells and the local rates by 0.03."""
ABOVE_FLOOR = 20.0
"""A distance below this many times the flow's own error in space says too little about epsilon."""
SECOND_ORDER = (0.15, 0.4)
"""Ratios of the differences between the flows on successive grids for which they are extrapolated; a quarter is ideal.
"""
INTERIOR = 0.6
COLUMNS = ("epsilon", "sweeps", "time", "sup", "centres", "l2", "interior", "w2", "uniform", "blur", "floor",
           "w2_floor", "resolved")


@dataclass(frozen=True, eq=False)
class SinkhornLimit:
    """Distances between Sinkhorn after ``n = round(time / epsilon)`` sweeps and the flow at ``n epsilon``.

    Attributes
    ----------
    epsilon, sweeps, time : ndarray
        One entry per temperature, as given; ``time = sweeps * epsilon``.
    sup, centres, l2, interior : ndarray
        Distance of the potentials modulo constants: half the range over the closed box (on no-flux axes extrapolated
        the half cell from the outermost centres to the faces, where the difference bends on the scale
        ``sqrt(epsilon)``); over the cell centres alone, whose rates on a box come out too high; standard deviation
        under the source; half the range over the middle 60 % of every axis that is not periodic.
    w2 : ndarray
        W2 distance of the source marginals ``rho``; NaN if not asked for.
    uniform : ndarray
        Largest ``sup`` over the times in between that were compared.
    blur : ndarray
        ``sqrt(epsilon)`` in cells, the smallest over axes and grids.
    floor : float
        Estimate of the flow's own error in space: the ``sup`` that is left as epsilon tends to zero on this grid.
    w2_floor : float
        The same of ``w2``; NaN if not asked for.
    extrapolated : bool
        Whether the flow was extrapolated in space (Richardson, fourth order) from grids of a half and a quarter of the
        cells per axis: where those differ by the factor four of second order.
    resolved : ndarray of bool
        Where the distances are about epsilon: enough cells in the blur, and ``sup`` well above ``floor``. Where it is
        False the grid is too coarse for the temperature, and no rate must be read off.
    half_shifted : bool
    """

    problem: TransportProblem
    epsilon: np.ndarray
    sweeps: np.ndarray
    time: np.ndarray
    sup: np.ndarray
    centres: np.ndarray
    l2: np.ndarray
    interior: np.ndarray
    w2: np.ndarray
    uniform: np.ndarray
    blur: np.ndarray
    floor: float
    w2_floor: float
    extrapolated: bool
    half_shifted: bool

    @property
    def resolved(self):
        return self.is_resolved()

    def is_resolved(self, name="sup"):
        """``resolved``, judged by the distance of that name, which may drown in the flow's error before ``sup`` does.
        """
        smallest = SMALLEST_BLUR["torus" if all(self.problem.grid.periodic) else "box"]
        floor = self.w2_floor if name == "w2" else self.floor
        return (self.blur >= smallest) & (getattr(self, name) >= ABOVE_FLOOR * floor)

    def slopes(self, name="sup"):
        """Local rates in epsilon between neighbouring temperatures, NaN where one of the two is not resolved."""
        values, good = getattr(self, name), self.is_resolved(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            local = np.diff(np.log(values)) / np.diff(np.log(self.epsilon))
        return np.where(good[1:] & good[:-1], local, np.nan)

    def rows(self):
        """One dict per temperature."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        columns |= {name: np.full(len(self.epsilon), columns[name]) for name in ("floor", "w2_floor")}
        return [dict(zip(columns, values)) for values in zip(*(column.tolist() for column in columns.values()))]

    def write_csv(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows())

    def __str__(self):
        names = ("epsilon", "sweeps", "time", "sup", "rate", "interior", "l2", "w2", "uniform", "blur")
        rates = [math.nan, *self.slopes()]
        lines = ["".join(f"{name:>11}" for name in names)]
        for row, rate in zip(self.rows(), rates):
            row["rate"] = rate
            lines.append("".join(f"{row[name]:11d}" if name == "sweeps" else f"{row[name]:11.3g}" for name in names)
                         + ("" if row["resolved"] else "  grid too coarse for this epsilon"))
        lines.append(f"the flow's own error in space: about {self.floor:.1e}"
                     + ("; half-shifted" if self.half_shifted else ""))
        return "\n".join(lines)


def sinkhorn_limit(problem, epsilons, time, *, shifted=False, start=None, checkpoints=4, marginals=True, clock=1.0,
                   tolerance=1e-6, threads=None):
    """Compare ``round(time / epsilon)`` Sinkhorn sweeps with the parabolic flow at ``round(time / epsilon) epsilon``.

    Both start from the same potential. The distance is O(epsilon) (Berman, Numer. Math. 145, 2020, on the torus, for
    the potentials; Deb, Kim, Pal & Schiebinger for the marginals); from the half-shifted start, read half-shifted, it
    is O(epsilon^2) on the torus. On a no-flux box the half-shift stays of first order in a boundary layer of width
    ``sqrt(epsilon)`` and about 3/2 in the interior (measured). The marginals stay of first order with it: the
    plan's is, to second order, the flow's half a step later (on the torus; measured).

    Parameters
    ----------
    problem : TransportProblem
        Positive densities, for the flow.
    epsilons : sequence of float
        Temperatures, decreasing.
    time : float
    shifted : bool
        Start Sinkhorn at ``u_0 - (epsilon / 2) f`` and read ``u + (epsilon / 2) f``, ``f = -log mu``
        (:func:`pmapde.half_shift`).
    start : array_like, optional
        Potential on the grid, strictly convex; default ``q``.
    checkpoints : int
        Times before the last at which the two are compared too, for ``uniform``.
    marginals : bool
        Whether to measure ``w2`` (one solve per temperature).
    clock : float
        The flow is taken at ``clock * n * epsilon``; anything but 1 is a wrong clock, for control.
    tolerance : float
        Of the flow in time.
    threads : int, optional

    Returns
    -------
    SinkhornLimit

    Raises
    ------
    TypeError, ValueError, SolverError

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(64) + 0.5) / 64
    >>> wave = 1 + 0.5 * np.outer(np.cos(2 * np.pi * x), np.cos(2 * np.pi * x))
    >>> problem = pmapde.TransportProblem(wave, np.ones((64, 64)), grid=pmapde.Grid((64, 64), periodic=True))
    >>> gap = pmapde.sinkhorn_limit(problem, [1 / 100, 1 / 200, 1 / 400], 0.05)
    >>> bool(abs(gap.slopes()[-1] - 1) < 0.1)
    True
    """
    check_problem(problem)
    epsilons = _checked_epsilons(epsilons)
    if not (_is_number(time) and time >= epsilons[0]):
        raise ValueError(f"`time` must be at least the largest temperature, {epsilons[0]:g}, got {time!r}.")
    if not (isinstance(checkpoints, Integral) and not isinstance(checkpoints, bool) and checkpoints >= 0):
        raise ValueError(f"`checkpoints` must be a whole number >= 0, got {checkpoints!r}.")
    if not (_is_number(clock) and clock > 0):
        raise ValueError(f"`clock` must be a positive number, got {clock!r}.")
    quadratic = problem.quadratic(problem.grid.cell_centres())
    phi = np.zeros(problem.grid.shape) if start is None else problem.displacement_potential(start)
    begin = quadratic + phi
    plans = [_checkpoints(round(time / epsilon), checkpoints) for epsilon in epsilons]
    times = sorted({clock * n * epsilon for counts, epsilon in zip(plans, epsilons) for n in counts})
    reference = _Reference(problem, times, phi, tolerance, threads)
    index = {moment: k for k, moment in enumerate(times)}
    rows = {name: [] for name in ("sup", "centres", "l2", "interior", "w2", "uniform", "blur")}
    for epsilon, counts in zip(epsilons, plans):
        plan, differences = _sweeps(problem, epsilon, counts, begin, shifted, threads), {}
        for n, phi in plan.seen.items():
            differences[n] = phi - reference.potentials[index[clock * n * epsilon]]
        last = differences[counts[-1]]
        rows["sup"].append(_sup(problem, last))
        rows["centres"].append(half_range(last))
        rows["l2"].append(_deviation(problem, last))
        rows["interior"].append(half_range(last[_interior(problem.grid)]))
        rows["uniform"].append(max(_sup(problem, difference) for difference in differences.values()))
        rows["blur"].append(plan.result.blur_in_cells)
        rows["w2"].append(_distance(problem.grid, plan.result.source_marginal, reference.densities(
            index[clock * counts[-1] * epsilon])[0], threads) if marginals else math.nan)
    sweeps = np.array([counts[-1] for counts in plans])
    return SinkhornLimit(problem, epsilons, sweeps, sweeps * epsilons,
                         **{name: np.array(values) for name, values in rows.items()},
                         floor=reference.floor, w2_floor=reference.w2_floor(threads) if marginals else math.nan,
                         extrapolated=reference.extrapolated, half_shifted=shifted)


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked_epsilons(epsilons):
    given = np.atleast_1d(np.asarray(epsilons))
    if given.ndim == 1 and len(given) and given.dtype.kind in "fiu":
        values = given.astype(float)
        if (np.isfinite(values) & (values > 0)).all() and (np.diff(values) < 0).all():
            return values
    raise ValueError(f"`epsilons` must be one or several decreasing positive temperatures, got {epsilons!r}.")


@dataclass
class _Sweeps:
    result: object
    seen: dict  # displacement potentials by number of sweeps


def _checkpoints(sweeps, count):
    """Numbers of sweeps at which to look, the last included."""
    return sorted({max(1, round(sweeps * (k + 1) / (count + 1))) for k in range(count + 1)})


def _sweeps(problem, epsilon, counts, begin, shifted, threads):
    def moved(potential, sign):
        return half_shift(problem, potential, sign * epsilon) if shifted else potential

    seen = {}

    def look(sweep):
        if sweep.number in counts:
            seen[sweep.number] = moved(sweep.phi, 1)

    plan = sinkhorn(problem, epsilon, counts[-1], start=moved(begin, -1), callback=look, threads=threads, throw=True)
    seen[counts[-1]] = moved(plan.displacement_potential, 1)
    return _Sweeps(plan, seen)


def _sup(problem, difference):
    return half_range(with_faces(difference, problem.grid.periodic))


def _deviation(problem, difference):
    mass = problem.source_values * problem.grid.cell_volume
    mean = float((mass * difference).sum())
    return math.sqrt(float((mass * (difference - mean) ** 2).sum()))


def _interior(grid):
    def middle(n, wraps):
        margin = 0 if wraps else round(n * (1 - INTERIOR) / 2)
        return slice(margin, n - margin)
    return tuple(middle(n, wraps) for n, wraps in zip(grid.shape, grid.periodic))


def _distance(grid, first, second, threads):
    """W2 of two densities."""
    pair = TransportProblem(*(GridDensity(density, grid, points=True) for density in (first, second)))
    return solve(pair, PseudoTransient(conserve=False), threads=threads, throw=True).w2


class _Reference:
    """The flow at given times, extrapolated in space where the grids' differences allow it."""

    def __init__(self, problem, times, phi, tolerance, threads):
        grid, levels = problem.grid, []
        for _ in range(3):
            start = self._on(problem.grid, phi)
            run = flow(problem, times, start=start + problem.quadratic(problem.grid.cell_centres()), ledger=None,
                       tolerance=tolerance, threads=threads, throw=True)
            levels.append(run)
            # Sinkhorn's sums take the cells' values for those at the centres: so must the flow's coarser grids
            problem = problem.on_grid(problem.grid.coarsened(4), pointwise=True)
        self.grid, self.levels = grid, levels
        fine, middle, coarse = ([self._on(grid, field) for field in run.displacement_potentials] for run in levels)
        first, second = half_range(fine[-1] - middle[-1]), half_range(middle[-1] - coarse[-1])
        self.extrapolated = SECOND_ORDER[0] * second < first < SECOND_ORDER[1] * second
        self.potentials, self.floor = fine, first / 3
        if self.extrapolated:
            self.potentials = [a + (a - b) / 3 for a, b in zip(fine, middle)]
            self.floor = half_range(self.potentials[-1] - middle[-1] - (middle[-1] - coarse[-1]) / 3) / 15

    def densities(self, index):
        """``rho`` as good as the grids allow, extrapolated in the logarithm, and with one grid less."""
        fine, middle, coarse = (self._on(self.grid, np.log(run.density(index)), interpolate_inside)
                                for run in self.levels)
        if self.extrapolated:
            fine, middle = fine + (fine - middle) / 3, middle + (middle - coarse) / 3
        return np.exp(fine), np.exp(middle)

    def w2_floor(self, threads):
        """As ``floor``, of the distance of the marginals."""
        return _distance(self.grid, *self.densities(-1), threads) / (15 if self.extrapolated else 3)

    @staticmethod
    def _on(grid, field, interpolate=interpolate_cubic):
        return field if field.shape == grid.shape else interpolate(field, grid.shape, grid.periodic)
