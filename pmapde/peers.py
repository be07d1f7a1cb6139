"""The solvers of the benchmark: our own and, where installed, POT, OTT-JAX and GeomLoss, at their best settings.

Every solver is prepared with the two arrays of a case (what is not to be timed) and gives a function that takes one of
its settings and returns an :class:`Answer`. This is the only module that imports the peers, inside its functions.

A *blur* of s is in cells, the regularisation ``epsilon = (s h)^2`` of the cost ``|x - y|^2 / 2``, that is ``2 (s h)^2``
of the cost ``|x - y|^2`` of POT and OTT. *debiased*: the map is ``x + T_ab(x) - T_aa(x)`` of the barycentric maps
(GeomLoss: minus the gradient of the debiased potential) and the cost is the Sinkhorn divergence: three problems
instead of one, all timed, and much more accurate. *raw* is the barycentric map and the cost of the plan.
"""
from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .entropic import sinkhorn
from .grid import Grid
from .problem import TransportProblem
from .solver import solve

DISTRIBUTIONS = {"ot": "POT", "ott": "ott-jax", "jax": "jax", "geomloss": "geomloss", "torch": "torch",
                 "pykeops": "pykeops"}
"""Names by which the peers' packages are imported, and installed."""
SWEEP_LIMIT = 20_000


@dataclass(frozen=True, eq=False)
class Answer:
    """Displacement at the cell centres, W2^2, sweeps (of multigrid: cycles on the finest grid), the L1 error of
     the plan's own marginals (NaN where there is no plan), and what is to be said: "" if it converged."""

    displacement: np.ndarray
    cost: float
    sweeps: int
    marginal: float = math.nan
    remark: str = ""


@dataclass(frozen=True)
class Solver:
    """``prepare(source, target)``, the settings, the packages it needs, and the grids it is tried on (per axis)."""

    prepare: Callable
    settings: tuple
    needs: tuple
    flat: tuple
    cube: tuple

    @property
    def missing(self):
        """Those of the packages that cannot be imported, by the names they are installed by."""
        return [DISTRIBUTIONS[name] for name in self.needs if importlib.util.find_spec(name) is None]

    def grids(self, ndim):
        return self.flat if ndim == 2 else self.cube


def label(setting):
    """A setting as it is shown: ``blur 2, tolerance 0.001, raw``."""
    shown = []
    for name, value in setting.items():
        shown.append(name if value is True else f"{name} {value:g}" if isinstance(value, float | int)
                     else f"{name} {value}")
    return ", ".join(shown) or "default"


# Ours


def _solve(source, target):
    problem = TransportProblem(source, target)

    def call(**setting):
        solution = solve(problem, **setting)
        finest = solution.history["level"] == solution.history["level"].max()
        return Answer(solution.displacement, solution.cost, int(solution.history["applications"][finest].sum()),
                      remark="" if solution.success else f"not converged: {solution.status.name.lower()}")

    return call


def _sinkhorn(source, target):
    """Annealed, over-relaxed, debiased. Richardson extrapolation in epsilon gains nothing over a smaller epsilon, that
    over two grids does."""
    problem = TransportProblem(source, target, floor=0.0)

    def call(blur, tolerance, raw=False, extrapolate=None):
        plan = sinkhorn(problem, _temperature(problem, blur), tolerance=tolerance)
        displacement = plan.displacement if raw else plan.debiased_displacement
        cost = plan.cost if raw else plan.debiased_cost
        if extrapolate:  # debiased and at a fixed blur in cells, the error of W2^2 is O(h^2): Richardson over two grids
            coarse = problem.on_grid(problem.grid.with_shape(tuple(n // 2 for n in source.shape)))
            cost = (4 * cost - sinkhorn(coarse, _temperature(coarse, blur), tolerance=tolerance).debiased_cost) / 3
        return Answer(displacement, cost, plan.stats["sweeps"], float(plan.marginal_error[-1]),
                      "" if plan.success else f"not converged: {plan.status.name.lower()}")

    return call


def _temperature(problem, blur):
    return float((blur * problem.grid.spacing.max())**2)


# Peers


def _points(shape):
    return Grid(shape).cell_centres().reshape(len(shape), -1).T


def _masses(source, target):
    return source.ravel() / source.sum(), target.ravel() / target.sum()


def _pot_sides(source, target):
    """Points and masses of the cells with mass: POT's way with zeros is to leave them out."""
    points, masses = _points(source.shape), _masses(source, target)
    return [(points[mass > 0], mass[mass > 0]) for mass in masses]


def _pot_map(plan, source, x, y):
    """``E[y | x] - x`` under a dense plan, ``(d, *shape)``; NaN where there is no mass."""
    moved = np.full((source.size, source.ndim), np.nan)
    moved[source.ravel() > 0] = plan @ y / plan.sum(axis=1)[:, None] - x
    return np.ascontiguousarray(moved.T).reshape(-1, *source.shape)


def _pot_emd(source, target):
    """The network simplex, exact for the discrete measures."""
    import ot
    (x, a), (y, b) = _pot_sides(source, target)

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the log says it too
            plan, log = ot.emd(a, b, ot.dist(x, y), numItermax=10**8, log=True)
        return Answer(_pot_map(plan, source, x, y), float(log["cost"]), 0, 0.0,
                      f"not converged: {log['warning']}" if log["warning"] else "")

    return call


def _pot_sinkhorn(source, target):
    """Dense. The plain kernel; where that ends in zeros or infinities, the log domain, far slower."""
    import ot
    (x, a), (y, b) = _pot_sides(source, target)

    def one(first, second, epsilon, tolerance, method):
        (places, p), (others, q) = first, second
        costs = ot.dist(places, others)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            plan, log = ot.sinkhorn(p, q, costs, epsilon, method=method, stopThr=tolerance, numItermax=SWEEP_LIMIT,
                                    log=True, warn=False)
            dual = ([np.log(log[name].ravel()) for name in ("u", "v")] if method == "sinkhorn"
                    else [log[name].ravel() for name in ("log_u", "log_v")])
        # its dual variables carry the logarithms of the weights
        entropic = epsilon * float(p @ (dual[0] - np.log(p)) + q @ (dual[1] - np.log(q)))
        return plan, float((plan * costs).sum()), entropic, log["err"][-1] if log["err"] else math.nan, log["niter"]

    def run(method, blur, tolerance, raw):
        epsilon = 2 * (blur / source.shape[0])**2
        plan, cost, entropic, error, sweeps = one((x, a), (y, b), epsilon, tolerance, method)
        displacement, errors = _pot_map(plan, source, x, y), [error]
        if not raw:
            plan, _, self_a, error_a, _ = one((x, a), (x, a), epsilon, tolerance, method)
            _, _, self_b, error_b, _ = one((y, b), (y, b), epsilon, tolerance, method)
            displacement = displacement - _pot_map(plan, source, x, x)
            cost, errors = entropic - (self_a + self_b) / 2, [error, error_a, error_b]
        note = " (log domain)" if method == "sinkhorn_log" else ""
        met = all(error < tolerance for error in errors)
        return Answer(displacement, cost, sweeps, float(error), note if met else f"not converged{note}")

    methods = {}

    def call(blur, tolerance, raw=False):
        setting = blur, tolerance, raw
        if setting not in methods:
            answer = run("sinkhorn", *setting)
            methods[setting] = "sinkhorn" if _finite(answer, source) else "sinkhorn_log"
            if methods[setting] == "sinkhorn":
                return answer
        return run(methods[setting], *setting)

    return call


def _finite(answer, source):
    return bool(np.isfinite(np.where(source > 0, answer.displacement, 0)).all() and np.isfinite(answer.cost))


def _ott(source, target):
    """On its `Grid`, float64: kernel mode with adaptive momentum from the 20th sweep on (three to ten times fewer
    sweeps than without; epsilon schedules, fixed momentum and Anderson's acceleration gain nothing here). Where that
    underflows (the momentum overshoots) without momentum, and where that does too in the log domain with momentum. Its
    own recipe for the symmetric problems of the divergence: averaged parallel updates."""
    import jax
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from ott.geometry.grid import Grid as OttGrid
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn
    a, b = _masses(source, target)
    axes = [(jnp.arange(n) + 0.5) / n for n in source.shape]
    points = jnp.asarray(_points(source.shape))
    variants = ((False, 20, ""), (False, 0, " (no momentum)"), (True, 20, " (log domain)"))
    compiled, chosen = {}, {}

    def build(log_domain, start, raw):
        def one(a, b, epsilon, tolerance, symmetric):
            momentum = Momentum(value=0.5) if symmetric else Momentum(start=start)
            solver = Sinkhorn(lse_mode=log_domain, threshold=tolerance, max_iterations=SWEEP_LIMIT, momentum=momentum,
                              parallel_dual_updates=symmetric)
            result = solver(LinearProblem(OttGrid(x=axes, epsilon=epsilon), a, b))
            image = jnp.stack([result.apply(x, axis=1, lse_mode=log_domain) for x in points.T]) / a
            return image, result

        def run(a, b, epsilon, tolerance):
            image, result = one(a, b, epsilon, tolerance, False)
            cost, converged, moved = result.primal_cost, result.converged, image - points.T
            if not raw:
                image_a, result_a = one(a, a, epsilon, tolerance, True)
                _, result_b = one(b, b, epsilon, tolerance, True)
                cost = result.reg_ot_cost - (result_a.reg_ot_cost + result_b.reg_ot_cost) / 2
                converged, moved = converged & result_a.converged & result_b.converged, image - image_a
            errors = result.errors
            return moved, cost, result.n_iters, jnp.min(jnp.where(errors >= 0, errors, jnp.inf)), converged
        return jax.jit(run).lower(a, b, 1.0, 1.0).compile()

    def attempt(variant, blur, tolerance, raw):
        if (variant, raw) not in compiled:
            compiled[variant, raw] = build(*variants[variant][:2], raw)
        moved, cost, sweeps, error, converged = (np.asarray(value) for value in compiled[variant, raw](
            a, b, 2 * (blur / source.shape[0])**2, float(tolerance)))
        note = variants[variant][2]
        return Answer(moved.reshape(-1, *source.shape), float(cost), int(sweeps), float(error),
                      note if converged else "not converged" + note)

    def call(blur, tolerance, raw=False):
        setting = blur, tolerance, raw
        if setting in chosen:
            return attempt(chosen[setting], *setting)
        for variant in range(len(variants)):
            answer = attempt(variant, *setting)
            if _finite(answer, source) and not answer.remark.startswith("not"):
                break
        chosen[setting] = variant
        return answer

    return call


def _geomloss(source, target):
    """Its multiscale Sinkhorn for images: annealed, symmetrised, debiased, float64. It raises for blurs below a pixel
    and from two on, takes one step a scale and checks no marginals."""
    import torch
    from geomloss import sinkhorn_divergence
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    a, b = (torch.tensor(density / density.sum())[None, None] for density in (source, target))

    def call(scaling):
        f, g = sinkhorn_divergence(a, b, p=2, blur=1 / source.shape[0], scaling=scaling, potentials=True)
        cost = 2 * float((a * f).sum() + (b * g).sum())
        ghosted, inner = np.pad(f[0, 0].detach().numpy(), 1, mode="symmetric"), (slice(1, -1),) * source.ndim
        displacement = np.stack([-np.gradient(ghosted, 1 / n, axis=axis)[inner] for axis, n in enumerate(source.shape)])
        return Answer(displacement, cost, int(math.log(source.shape[0]) / -math.log(scaling)) + 2)

    return call


# All


def _settings(blurs, tolerances):
    return [{"blur": blur, "tolerance": tolerance} for blur in blurs for tolerance in tolerances]


def solvers(quick=False):
    """Name to :class:`Solver`, ours first; fewer settings and grids if ``quick``."""
    ours = [*_settings((8, 4, 2, 1), (1e-2, 1e-3, 1e-5)), {"blur": 1, "tolerance": 1e-3, "raw": True},
            *({"blur": blur, "tolerance": tolerance, "extrapolate": "cost"} for blur in (2, 1)
              for tolerance in (1e-2, 1e-3, 1e-5))]
    ott = [*_settings((4, 2, 1), (1e-3, 1e-6)), {"blur": 1, "tolerance": 1e-6, "raw": True}]
    pot = [*_settings((2, 1), (1e-3, 1e-6)), {"blur": 1, "tolerance": 1e-6, "raw": True}]
    found = {
        "pmapde.solve": Solver(_solve, ({}, {"extrapolate": "cost"}, {"extrapolate": "map"}), (),
                               (16, 32, 64, 128, 256, 512), (8, 16, 32, 64)),
        "pmapde.sinkhorn": Solver(_sinkhorn, tuple(ours), (), (16, 32, 64, 128, 256), (8, 16, 32, 64)),
        "POT emd": Solver(_pot_emd, ({},), ("ot",), (16, 32, 48), (8, 12)),
        "POT Sinkhorn": Solver(_pot_sinkhorn, tuple(pot), ("ot",), (16, 32), (8,)),
        "OTT-JAX Sinkhorn": Solver(_ott, tuple(ott), ("ott", "jax"), (32, 64, 128, 256), (16, 32)),
        "GeomLoss": Solver(_geomloss, tuple({"scaling": scaling} for scaling in (0.9, 0.97, 0.99)),
                           ("geomloss", "torch", "pykeops"), (32, 64, 128), (16, 32)),
    }
    if not quick:
        return found
    few = {"pmapde.sinkhorn": (*_settings((4, 2, 1), (1e-3,)), {"blur": 1, "tolerance": 1e-3, "raw": True}),
           "POT Sinkhorn": tuple(_settings((1,), (1e-3,))), "OTT-JAX Sinkhorn": tuple(_settings((2, 1), (1e-3,))),
           "GeomLoss": tuple({"scaling": scaling} for scaling in (0.9, 0.97))}
    return {name: replace(solver, settings=few.get(name, solver.settings),
                          flat=tuple(n for n in solver.flat if n <= 128), cube=tuple(n for n in solver.cube if n <= 32))
            for name, solver in found.items()}
