"""The Gibbs kernel of two grids: sums over the plan, axis by axis, in the displacement potentials."""
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

MARGIN = 46.0
"""exp(-46) is 1e-20: what is left out of a sum is smaller than that, relative to it, times the length of a line."""
QUANTUM = 16.0
"""The band of a kernel follows the depth of the sums in steps of this."""


class GibbsKernel:
    """``exp(-c(x, y) / epsilon)``, ``c = |x - y|^2 / 2``, between the cell centres of two grids, axis by axis.

    Written in the displacement potentials ``phi = u - q`` and ``psi = v - q*``: since ``q(x) + q*(y) - <x, y> = sum_a
    slope_a (x_a - z_a)^2 / 2`` with ``z = (grad q)^-1(y)``, the plan is ``exp(-(sum_a slope_a (x_a - z_a)^2 / 2 +
    phi(x) + psi(y)) / epsilon)`` times both densities, and nothing cancels however far apart the boxes are. On
    periodic axes the exponential is summed over the images, ``x - z`` plus whole periods.

    Parameters
    ----------
    grid, target_grid : Grid
    slopes, offsets : ndarray, (d,)
        Of ``grad q``, the affine map of box onto box, as in :class:`~pmapde.TransportProblem`.
    epsilon : float
    """

    def __init__(self, grid, target_grid, slopes, offsets, epsilon):
        self.epsilon = float(epsilon)
        self.grid, self.target_grid = grid, target_grid
        self.ndim = grid.ndim
        self.slopes = np.asarray(slopes, float)
        self.periods = np.where(grid.periodic, grid.lengths, 0.0)
        self.x = [grid.centres(axis) for axis in range(self.ndim)]
        self.y = [target_grid.centres(axis) for axis in range(self.ndim)]
        self.z = [y if period else lower + (y - offset) / slope for y, period, lower, offset, slope
                  in zip(self.y, self.periods, grid.lower, offsets, self.slopes)]
        self.to_source, self.to_target = [], []  # sums over y, at every x; sums over x
        for axis, (x, z) in enumerate(zip(self.x, self.z)):
            log, stiffness = self._log_kernel(axis), float(self.slopes[axis]) / (2 * self.epsilon)
            self.to_source.append(AxisKernel(log, (z, x, stiffness, self.periods[axis])))
            self.to_target.append(AxisKernel(log.T, (x, z, stiffness, self.periods[axis])))

    @classmethod
    def of_problem(cls, problem, epsilon):
        return cls(problem.grid, problem.target_grid, problem.slopes, problem.offsets, epsilon)

    @classmethod
    def of_grid(cls, grid, epsilon):
        """From a grid to itself."""
        return cls(grid, grid, np.ones(grid.ndim), grid.lower, epsilon)

    def _images(self, axis):
        """Squared distance, displacement ``y - x`` (both ``(images, n, m)``) on one axis, nearest image in the
        middle."""
        distance, image = self.x[axis][:, None] - self.z[axis], self.y[axis] - self.x[axis][:, None]
        period = self.periods[axis]
        if not period:
            return distance[None]**2, image[None]
        turns = np.round(distance / period)
        reach = _reach(period, self.epsilon)
        turns = turns + np.arange(-reach, reach + 1)[:, None, None]
        return (distance - turns * period)**2, image + turns * period

    def _log_kernel(self, axis, weight=None):
        squares, _ = self._images(axis)
        logs = -self.slopes[axis] * squares / (2 * self.epsilon)
        if weight is not None:
            with np.errstate(divide="ignore"):  # the logarithm of zero is what it should be
                logs = logs + np.log(weight)
        return logs[0] if len(logs) == 1 else logsumexp(logs, axis=0)

    def conjugate(self, log_mass, potential, axes):
        """``log`` of the sum over one side of ``exp(log_mass - potential / epsilon)`` times the kernel, at the other.

        ``axes`` are the kernels to use: ``to_target`` (sums over x), ``to_source`` (sums over y) or a moment's.
        """
        from .kernels.sinkhorn import weighted
        values = np.empty(potential.shape)
        weighted(log_mass.ravel(), potential.ravel(), 1 / self.epsilon, values.ravel())
        for axis, kernel in enumerate(axes):
            values = kernel(values, axis)
        return values

    def moments(self, log_mass, psi):
        """Conditional means of the displacement ``y - x`` and of its square, ``(d, *shape)`` each, given ``x``."""
        plain = self.conjugate(log_mass, psi, self.to_source)
        means, squares = np.empty((self.ndim, *plain.shape)), np.empty((self.ndim, *plain.shape))
        for axis in range(self.ndim):
            _, image = self._images(axis)
            shift = float(self.grid.spacing[axis] - image.min())  # makes all weights positive
            for power, out in ((1, means), (2, squares)):
                axes = list(self.to_source)
                axes[axis] = AxisKernel(self._log_kernel(axis, (image + shift) if power == 1 else image**2))
                np.exp(self.conjugate(log_mass, psi, axes) - plain, out=out[axis])
            means[axis] -= shift
        return means, squares

    @property
    def counts(self):
        """Lines of all sums so far; those whose values spread too far for the exponential domain; those of them that
        were done term by term."""
        kernels = self.to_source + self.to_target
        return {name: sum(getattr(kernel, name) for kernel in kernels) for name in ("lines", "refused", "slow")}


BYTES_PER_CELL = 250
"""Of a plan at its peak, its map, costs and the two self-transports of the debiased ones included: fields."""
BYTES_PER_ENTRY, TRANSIENT = 60, 130
"""Per entry of the axes' kernels: what stays, and while the largest is made, for every periodic image."""


def memory_needed(grid, target_grid, epsilon):
    """Bytes a Sinkhorn run between two grids is expected to need: a bound with a margin, held against traced
    allocations in ``tests/test_sinkhorn.py``. Kernels are dense, ``n m`` entries an axis, which decides on long axes.
    """
    entries = [n * m for n, m in zip(grid.shape, target_grid.shape)]
    images = [2 * _reach(length, epsilon) + 1 if wraps else 1 for length, wraps in zip(grid.lengths, grid.periodic)]
    made = max(count * turns for count, turns in zip(entries, images))
    return BYTES_PER_CELL * max(grid.size, target_grid.size) + BYTES_PER_ENTRY * sum(entries) + TRANSIENT * made


def _reach(period, epsilon):
    """Periodic images to either side of the nearest that a kernel is summed over."""
    return 1 + int(math.sqrt(2 * MARGIN * epsilon) / period)


class MarginalError(NamedTuple):
    """A marginal against what it should be: L1 distance, KL(should | is) and KL(is | should), generalised."""

    distance: float
    kl: float
    reverse_kl: float


def log_masses(problem):
    """Logarithms of the cell masses of source and target; ``-inf`` where there is none."""
    with np.errstate(divide="ignore"):
        return (np.log(problem.source_values * problem.grid.cell_volume),
                np.log(problem.target_values * problem.target_grid.cell_volume))


def half_sweep(kernel, axes, log_mass, potential, mass, other, factor):
    """The potential on the other side after ``other += factor (conjugate of potential - other)``.

    Parameters
    ----------
    kernel : GibbsKernel
    axes : list of AxisKernel
        ``kernel.to_target`` or ``kernel.to_source``.
    log_mass, potential : ndarray
        On the side that is summed over.
    mass, other : ndarray
        On the other side; ``other`` is left as it is. None for the conjugate alone.

    Returns
    -------
    ndarray, MarginalError
        The latter of the marginal on the other side before, with the potentials as they came in.
    """
    from .kernels.sinkhorn import BLOCK, update
    log_sum = kernel.conjugate(log_mass, potential, axes)
    if other is None:
        log_sum *= kernel.epsilon
        return log_sum, MarginalError(math.nan, math.nan, math.nan)
    out, sums = np.empty(log_sum.shape), np.empty((-(-log_sum.size // BLOCK), 3))
    update(other.ravel(), log_sum.ravel(), mass.ravel(), kernel.epsilon, factor, out.ravel(), sums)
    return out, MarginalError(*(float(total) for total in sums.sum(axis=0)))


class AxisKernel:
    """The kernel along one axis, and the sums over it: ``log sum_i exp(log_kernel[j, i] + values[..., i, ...])``.

    The sums are taken in the exponential domain with the band of the kernel that they need. How wide that is shows
    afterwards: the smallest sum, relative to the largest value of its line, says how small the entries may be that are
    left out. The band of a call is guessed from the call before, and every line is checked against what was left out;
    lines that might miss something are done again (and tiles of lines where that has to be expected, at once) with the
    maximum of every group of outputs taken out, or term by term. So the results never depend on the guess by more than
    rounding.

    Parameters
    ----------
    log_kernel : ndarray, (m, n)
    parabola : (nodes, places, stiffness, period), optional
        If ``log_kernel[j, i] = -stiffness (nodes[i] - places[j])^2``, both uniform; summed over images if the period is
        not zero.

    Attributes
    ----------
    lines, refused, slow : int
        Lines of all calls, those of them that were not done the first way, and those done term by term.
    """

    def __init__(self, log_kernel, parabola=None):
        from .kernels.sinkhorn import CHUNK, WIDEST
        self.m, self.n = log_kernel.shape
        self.log = np.full((self.m, -(-self.n // CHUNK) * CHUNK), -np.inf)
        self.log[:, :self.n] = log_kernel
        self.highest = float(log_kernel.max())
        self.lines = self.refused = self.slow = 0
        self.depth = np.empty(0)  # of the sums of the last call, per tile of lines
        self._cut(WIDEST)
        self._tilt(*parabola or (np.zeros(2), np.zeros(2), 1.0, 0.0))

    def _tilt(self, nodes, places, stiffness, period):
        """The table of the kernel ``_tilted``, empty where it does not apply: to anything but ``exp(-stiffness (x -
        z)^2)``, and to periods in which more than the nearest image and its neighbours may count."""
        self.nodes, self.places, self.stiffness = nodes, places, stiffness
        self.table = np.empty((0, 0))
        spacing, step = nodes[1] - nodes[0], places[1] - places[0]
        if not spacing or (period and stiffness * period**2 < 4 * MARGIN):
            return
        if period:
            # the places are within a period of the nodes' own box, wherever that was put
            self.nodes = np.concatenate([nodes + turn * period for turn in (-1, 0, 1)])
            self.places = places - period * np.floor((places[0] - nodes[0]) / period + 0.5)
        mixed = 2 * stiffness * spacing * step  # change of the exponent from one input and output to the next
        rows = 4 * round(min(64, max(4, 16 / math.sqrt(mixed))) / 4)
        half = min(len(self.nodes), int(600 / (1.5 * mixed)) + 1)
        d = (np.arange(rows) - 0.5 * (rows - 1))[:, None] * step
        w = (np.arange(2 * half + 5) - half) * spacing
        self.table = np.exp(np.clip(stiffness * (2 * d * w - d * d), -700, 700))

    def _cut(self, reach):
        """The matrix without its entries below ``exp(-reach)`` of the largest, padded to groups of four."""
        from .kernels.sinkhorn import SCALE
        self.reach = reach
        rows, columns = -(-self.m // 4) * 4, -(-self.n // 4) * 4
        log = np.full((rows, columns), -np.inf)
        log[:self.m, :self.n] = self.log[:, :self.n] - self.highest
        kept = log >= -reach
        self.matrix = np.ldexp(np.exp(np.where(kept, log, -np.inf)), SCALE)
        used = kept.reshape(-1, 4, columns // 4, 4).any(axis=(1, 3))
        self.first = 4 * used.argmax(axis=1)
        self.last = np.where(used.any(axis=1), columns - 4 * used[:, ::-1].argmax(axis=1), 0)

    def __call__(self, values, axis):
        """Sums along ``axis`` of ``values``, contiguous: ``n`` cells in, ``m`` out, the other axes kept."""
        from .kernels.sinkhorn import DEEPEST, LINES, WIDEST, log_sums
        shape, inner = values.shape, math.prod(values.shape[axis + 1:])
        lines = values.size // self.n
        tiles = -(-lines // LINES)
        if len(self.depth) != tiles:
            self.depth = np.zeros(tiles)
        out = np.empty((*shape[:axis], self.m, *shape[axis + 1:]))
        refused = np.empty((tiles, 2), dtype=np.int64)
        log_sums(values.ravel(), self.n, self.m, inner, self.matrix, self.highest, self.log, self.first, self.last,
                 MARGIN - self.reach, self.nodes, self.places, self.stiffness, self.table, out.ravel(), self.depth,
                 refused)
        self.lines += lines
        self.refused += int(refused[:, 0].sum())
        self.slow += int(refused[:, 1].sum())
        deepest = max(self.depth[self.depth <= DEEPEST], default=0.0)
        needed = min(WIDEST, QUANTUM * math.ceil((float(deepest) + MARGIN) / QUANTUM + 1))
        if needed > self.reach or needed < self.reach - 2 * QUANTUM:
            self._cut(needed)
        return out
