"""What came out of Sinkhorn: the entropic plan, its potentials, map, costs, and how far its marginals are off."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .gibbs import GibbsKernel, half_sweep, log_masses
from .problem import TransportProblem
from .status import Status
from .threads import thread_settings, use_threads

SELF_SWEEPS = 2000
"""Limit of the symmetric iteration of a density with itself, which converges in some tens."""


@dataclass(frozen=True, eq=False)
class SinkhornPlan:
    """The result of :func:`pmapde.sinkhorn`: ``P = exp((<x, y> - u(x) - v(y)) / epsilon) mu(x) nu(y)``.

    The target marginal of P is nu (``v`` is the entropic conjugate of ``u``); its source marginal ``rho`` is mu at
    convergence. Costs are in the unit of W2^2, with ``|x - y|^2`` and no factor one half; the temperature ``epsilon``
    belongs to the ground cost ``|x - y|^2 / 2``, so the entropy carries ``2 epsilon``. Half the gradient of
    ``entropic_cost`` in the densities is ``|x|^2 / 2 - u`` and ``|y|^2 / 2 - v``, up to constants.

    Attributes
    ----------
    problem : TransportProblem
    epsilon : float
    status : Status
    success : bool
    displacement_potential, dual_displacement_potential : ndarray
        ``phi = u - q`` on the grid and ``psi = v - q*`` on the target grid, as the last sweep left them: not shifted.
    potential : ndarray, (*shape)
        ``u``, zero mean under the source, as :attr:`pmapde.Solution.potential`.
    dual_potential : ndarray, (*target_shape)
        ``v``, with the same constant taken off the other way round. Both are defined in cells without mass too.
    marginal_error : ndarray, (sweeps + 1,)
        L1 distance of ``rho`` from mu after 0, 1, ... sweeps; the last one is this plan's.
    history : dict of ndarray, (sweeps + 1,)
        ``source_error`` (the same), ``source_kl`` KL(mu | rho), ``source_reverse_kl`` KL(rho | mu), and the same
        three of the target marginal one half-sweep earlier (``target_error, target_kl, target_reverse_kl``; NaN before
        the first sweep), ``overrelaxation`` and ``seconds``. Divergences are the generalised ones where masses differ.
    stats : dict
        ``sweeps``, ``anneal`` (sweeps on each temperature before), lines done term by term, seconds.
    """

    problem: TransportProblem
    epsilon: float
    status: Status
    displacement_potential: np.ndarray
    dual_displacement_potential: np.ndarray
    history: dict
    stats: dict
    threads: int | None = None

    @property
    def success(self):
        return self.status.success

    @property
    def marginal_error(self):
        return self.history["source_error"]

    @cached_property
    def potential(self):
        u = self._quadratic + self.displacement_potential
        return u - _mean(u, self.problem.source_values, self.problem.grid)

    @cached_property
    def dual_potential(self):
        u = self._quadratic + self.displacement_potential
        return self._dual_quadratic + self.dual_displacement_potential + _mean(
            u, self.problem.source_values, self.problem.grid)

    @property
    def _quadratic(self):
        return self.problem.quadratic(self.problem.grid.cell_centres())

    @property
    def _dual_quadratic(self):
        """``q*`` at the cells of the target grid."""
        problem, y = self.problem, self.problem.target_grid.cell_centres()
        column = (-1,) + (1,) * problem.ndim
        slopes, offsets, lower = (value.reshape(column) for value in (problem.slopes, problem.offsets,
                                                                      problem.grid.lower))
        return (lower * (y - offsets) + (y - offsets)**2 / (2 * slopes)).sum(axis=0)

    @cached_property
    def _kernel(self):
        return GibbsKernel.of_problem(self.problem, self.epsilon)

    def _with_threads(self, function):
        with thread_settings(self.threads) as count:
            use_threads(count, self.problem.grid.size)
            return function()

    @cached_property
    def source_marginal(self):
        """Density of ``rho``, the source marginal of the plan, on the grid."""
        masses = log_masses(self.problem)
        log_sum = self._with_threads(lambda: self._kernel.conjugate(
            masses[1], self.dual_displacement_potential, self._kernel.to_source))
        return self.problem.source_values * np.exp(log_sum - self.displacement_potential / self.epsilon)

    @cached_property
    def _moments(self):
        _, log_target = log_masses(self.problem)
        return self._with_threads(lambda: self._kernel.moments(log_target, self.dual_displacement_potential))

    @property
    def displacement(self):
        """``(d, *shape)``: conditional mean of ``y - x`` given ``x`` at the cell centres, the barycentric projection.

        It is the gradient of the entropic ``u`` minus ``x``. As an approximation of the Brenier map its error is
        O(epsilon); see :attr:`debiased_displacement`. On periodic axes not wrapped.
        """
        return self._moments[0]

    @cached_property
    def cost(self):
        """``integral |x - y|^2 dP``: the transport cost of the plan, W2^2 + O(epsilon)."""
        grid = self.problem.grid
        return float((self._moments[1].sum(axis=0) * self.source_marginal).sum() * grid.cell_volume)

    def _against_potentials(self, source_values):
        """``2 (integral f d(source) + integral g dnu)``, f and g the Kantorovich potentials."""
        problem = self.problem
        x, y = problem.grid.cell_centres(), problem.target_grid.cell_centres()
        f = (x**2).sum(axis=0) / 2 - self._quadratic - self.displacement_potential
        g = (y**2).sum(axis=0) / 2 - self._dual_quadratic - self.dual_displacement_potential
        return 2 * (_mean(f, source_values, problem.grid) + _mean(g, problem.target_values, problem.target_grid))

    @cached_property
    def dual_cost(self):
        """The dual value, never above the optimal entropic cost (the plan has the target marginal, and mass one)."""
        return self._against_potentials(self.problem.source_values)

    @cached_property
    def entropic_cost(self):
        """The primal value ``cost + 2 epsilon KL(P | mu x nu)``. Equal to ``dual_cost`` at convergence."""
        return self._against_potentials(self.source_marginal)

    @property
    def entropy(self):
        """``KL(P | mu x nu)``; on periodic axes every image counts as a place of its own."""
        return (self.entropic_cost - self.cost) / (2 * self.epsilon)

    def _to_itself(self, grid, density):
        """``(entropic cost, displacement)`` of a density to itself."""
        tolerance = min(max(0.01 * self.marginal_error[-1], 1e-11), 1e-6)
        return self._with_threads(lambda: _self_transport(grid, density, self.epsilon, tolerance))

    @cached_property
    def _source_to_itself(self):
        return self._to_itself(self.problem.grid, self.problem.source_values)

    @cached_property
    def debiased_cost(self):
        """The Sinkhorn divergence ``S = dual_cost(mu, nu) - (dual_cost(mu, mu) + dual_cost(nu, nu)) / 2``.

        Zero for equal densities, non-negative, W2^2 + O(epsilon^2) for smooth ones (Feydy et al., AISTATS 2019;
        Chizat et al., NeurIPS 2020). Takes two more, symmetric and quickly converging, Sinkhorn runs, once.
        """
        target = self._to_itself(self.problem.target_grid, self.problem.target_values)
        return self.dual_cost - (self._source_to_itself[0] + target[0]) / 2

    @property
    def debiased_displacement(self):
        """``displacement`` minus that of the source to itself: most of the entropic blur of the map cancels."""
        return self.displacement - self._source_to_itself[1]

    @cached_property
    def transport_map(self):
        """The entropic map away from the grid points."""
        return EntropicMap(self._kernel, log_masses(self.problem)[1], self.dual_displacement_potential)

    def map(self, points):
        """Barycentric projection at points ``(n, d)``, by the entropic formula ``sum_y y P(y | x)``; wrapped on
        periodic axes. It makes sense for any points, on the grid, between its points, and outside of the box."""
        points, grid = np.asarray(points), self.problem.target_grid
        if points.ndim != 2 or points.shape[1] != grid.ndim or points.dtype.kind not in "fiu":
            raise ValueError(f"`points` must be real numbers of shape (n, {grid.ndim}), got shape {points.shape}.")
        image = self._with_threads(lambda: self.transport_map.forward(np.ascontiguousarray(points.T, dtype=float)))
        for axis, wraps in enumerate(grid.periodic):
            if wraps:
                image[axis] -= grid.lengths[axis] * np.floor((image[axis] - grid.lower[axis]) / grid.lengths[axis])
        return image.T

    def save(self, path):
        """Write everything to one .npz file (never pickled); :func:`pmapde.load` reads it."""
        from .storage import save_plan
        save_plan(self, path)

    def summary(self):
        """The scalars as a dict that JSON can hold."""
        numbers = {name: float(getattr(self, name)) for name in ("epsilon", "cost", "entropic_cost", "dual_cost",
                                                                 "debiased_cost")}
        numbers["marginal_error"] = float(self.marginal_error[-1])
        return {"status": self.status.name, "message": self.status.value, "success": self.success,
                "source_shape": list(self.problem.grid.shape), "target_shape": list(self.problem.target_grid.shape),
                **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
                "blur_in_cells": self.blur_in_cells, "stats": self.stats}

    @property
    def blur_in_cells(self):
        """``sqrt(epsilon)`` in cells, the smallest over axes and grids. Below about one half the kernel no longer sees
        the neighbouring cells: the plan is then that of the point masses, not of the densities."""
        spacing = max(float((self.problem.grid.spacing * np.sqrt(self.problem.slopes)).max()),
                      float((self.problem.target_grid.spacing / np.sqrt(self.problem.slopes)).max()))
        return math.sqrt(self.epsilon) / spacing

    def __str__(self):
        errors, stats, lines = self.history, self.stats, self.stats["lines"]
        rows = [("problem", repr(self.problem)[len("TransportProblem("):-1]),
                ("status", f"{self.status.name}: {self.status.value}"),
                ("epsilon", f"{self.epsilon:.4g} (ground cost |x - y|^2 / 2), blur sqrt(epsilon) = "
                            f"{self.blur_in_cells:.2f} cells"),
                ("W2^2", f"{self.debiased_cost:.8g} debiased; plan {self.cost:.8g}, entropic {self.entropic_cost:.8g}, "
                         f"dual {self.dual_cost:.8g}"),
                ("marginals", f"source off by {errors['source_error'][-1]:.2e} in L1, KL(mu | rho) "
                              f"{errors['source_kl'][-1]:.2e}, KL(rho | mu) {errors['source_reverse_kl'][-1]:.2e}; "
                              f"target exact"),
                ("work", f"{stats['sweeps']} sweeps at epsilon, {sum(stats['anneal'])} before; "
                         f"{lines['refused'] / lines['lines']:.1%} of the lines beyond the exponential domain, "
                         f"{lines['slow'] / lines['lines']:.1%} term by term"),
                ("seconds", f"{stats['seconds']:.2f}")]
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


class EntropicMap:
    """``x + E[y - x | x]`` under the plan of a dual potential, at any points.

    Parameters
    ----------
    kernel : GibbsKernel
    log_mass, psi : ndarray
        Logarithms of the target's cell masses, and its displacement potential.
    """

    SIDE = {2: 8, 3: 4}

    def __init__(self, kernel, log_mass, psi):
        from .kernels.sinkhorn import box_tops
        self.kernel = kernel
        missing = 3 - kernel.ndim
        self.shape = np.array([*psi.shape, *[1] * missing])
        self.values = (log_mass - psi / kernel.epsilon).ravel()
        self.side = self.SIDE[kernel.ndim]
        self.blocks = -(-self.shape // self.side)
        self.tops = np.empty(int(self.blocks.prod()))
        box_tops(self.values, self.shape, self.side, self.tops)
        self.nodes = np.zeros((3, 2, self.shape.max()))
        for axis, (z, y) in enumerate(zip(kernel.z, kernel.y)):
            self.nodes[axis, :, :len(y)] = z, y
        self.slopes = np.array([*kernel.slopes, *[1.0] * missing])
        self.periods = np.array([*kernel.periods, *[0.0] * missing])

    def forward(self, points):
        """``(d, n)`` to ``(d, n)``, not wrapped."""
        from .kernels.sinkhorn import displacement_at
        padded = np.zeros((3, points.shape[1]))
        padded[:len(points)] = points
        out = np.empty_like(padded)
        displacement_at(padded, self.nodes, self.slopes, self.periods, 1 / self.kernel.epsilon, self.values, self.shape,
                        self.side, self.tops, self.blocks, out)
        return points + out[:len(points)]


def _mean(values, density, grid):
    return float((values * density).sum() * grid.cell_volume)


def _self_transport(grid, density, epsilon, tolerance):
    """Entropic cost and displacement of a density to itself: ``phi <- (phi + conjugate of phi) / 2``, symmetric."""
    kernel, mass = GibbsKernel.of_grid(grid, epsilon), density * grid.cell_volume
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass)
    phi = np.zeros(grid.shape)
    for _ in range(SELF_SWEEPS):
        phi, error = half_sweep(kernel, kernel.to_source, log_mass, phi, mass, phi, 0.5)
        if error.distance <= tolerance:
            break
    means, _ = kernel.moments(log_mass, phi)
    return -4 * float((phi * mass).sum()), means  # phi is the mean of a potential and its conjugate
