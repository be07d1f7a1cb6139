"""Variational inference in two or three parameters by the Brenier map to a reference."""
from __future__ import annotations

import importlib
import math
import time
import warnings
from numbers import Integral, Real

import numpy as np

from .density import LogDensity
from .grid import Grid
from .locate import Locator
from .problem import TransportProblem
from .sampler import MatchedReference, Sampler
from .samples import stream
from .solution import StencilWarning
from .solver import solve
from .status import SolverError, Status
from .stepping import PseudoTransient
from .support import continued, log_masses
from .transfer import interpolate_cubic

CELLS = {2: (128, 1024), 3: (32, 128)}
"""Cells per axis, in the mean: at first, and at most."""
FEWEST = 16
"""Cells per axis that a fit is begun with at least."""
ROUNDED = 1.1
"""What rounding cells per axis to multiples of eight may make of their number."""
PER_SCALE = 3.0
"""Cells per standard deviation of the narrowest mode, that no coarser grid is tried for."""
EVIDENCE = {2: 1e-3, 3: 1e-2}
"""Default tolerance of the log evidence."""
ALGEBRAIC, SMALLEST = 0.1, 1e-8
"""Residual that the equation is solved to, of that tolerance: what it leaves of the drift is part of the evidence; and
the least that is asked for, above the rounding of densities of such contrast."""
MOMENTS = 5e-3
"""Tolerance of the sampler's means and standard deviations, in posterior standard deviations."""
BACKGROUND = 0.1
"""Mass of the uniform background under which densities are not followed, as a share of the tail's."""
MAX_STEPS = 80
"""Implicit steps per grid; with a reference that suits, ten to a few dozen are needed."""


class BrenierPosterior:
    """The posterior of an unnormalised log-density, as the image of a reference under an inverse Brenier map.

    Finds the modes and scales of ``exp(log_density)``, whitens it, chooses the box that leaves out a stated tail, and
    solves ``det D2u nu(grad u) = mu`` with the posterior ``mu`` as the source and the reference ``nu`` as the target:
    ``grad u*`` then turns draws of the reference into draws of the posterior, the minimiser of ``KL(. | mu)`` (Deb &
    Liang, arXiv 2504.09279, variational inference). Grids are refined until the errors, measured, are within the
    tolerances, or until ``max_cells``. Where the density jumps to zero inside the box (an order of the parameters, a
    simplex), it is continued beyond the edge for the map, and draws from there are rejected.

    Parameters
    ----------
    log_density : callable
        (n, d) to (n,), any normalisation, ``-inf`` where the density is zero.
    gradient : callable, optional
        Of ``log_density``, (n, d) to (n, d): the searches for modes take it instead of differences. Compared with
        differences at the start.
    start : array_like, (d,) or (m, d), optional
        A point where it is finite, or several; zeros by default. Two or three parameters. Modes with ``-inf`` around
        them are found for certain only where a point of theirs is given.
    scale : float or array_like, (d,), optional
        Rough scale around every ``start`` (default 1): searches for modes start within a few of them.
    bounds : sequence of (lower, upper), optional
        The support; None or infinite where open. Whitening is then per axis, and finite bounds are faces of the box,
        but for those farther from the mass than its box is long.
    reference : {"auto", "gaussian", "uniform"}
        Standard normal, truncated to the same tails as the box (a map between boxes of different tails would move
        mass), which suits what is nearly normal; or uniform, for hard bounds and narrow necks. "auto" tries the first
        (with finite bounds, or where the density jumps to zero, the second), and the other on a grid where its map is
        not good enough.
    tail : float
        Mass outside the box, by quadrature over the whole space. It is not in the samples.
    tolerance : float, optional
        Of the log evidence: 1e-3 in two, 1e-2 in three dimensions. Means and standard deviations of the sampler are
        asked to be within half a per cent of the posterior standard deviations.
    max_cells : int, optional
        Largest number of cells of the grid (1024^2 or 128^3); at least 16^2 or 16^3, about.
    max_seconds : float
        No grid is begun after so long, and no equation solved on; two minutes. The search for modes and the box, which
        comes first, is not cut. ``math.inf`` where the density itself takes long.
    threads : int, optional

    Attributes
    ----------
    status : Status
        ``CONVERGED``, ``NOT_RESOLVED`` where the tolerances were not met, ``MAX_SECONDS`` where time ran out before
        they were, or why the equation was not solved.
    success : bool
    solution : Solution
        In whitened coordinates ``z``, ``x = mean + root z`` (``whitening``).
    log_evidence : float
        ``source_log_mass - drift`` of the solution, and ``log(accepted)``. NaN where the equation was not solved, the
        quadrature's being known all the same.
    log_evidence_quadrature : float
        The same by plain quadrature over the whole space, tails included.
    log_evidence_error : float
        Distance of the two, the error of the quadrature as fewer points and the cells at an edge tell it (where a
        density is cut it may be two or three times that), and what modes outside the box, or too narrow for the
        quadrature, would add by Laplace's approximation; at least what the change of the grid's own quadrature from
        the last grid to this one says (a third of it at second order). Modes that were never seen (far from ``start``,
        or narrow) are not in it.
    tail_mass : float
        Fraction of the mass outside the box, by quadrature over the whole space.
    mean, covariance : ndarray, (d,), (d, d)
        By quadrature on the grid.
    moment_error : float
        Largest error of the sampler's means and standard deviations against those of the posterior in the box, in
        posterior standard deviations; what is outside (``tail``) may matter more where tails are heavy.
    kl_gap : float
        KL(sampler | posterior in the box), by 2^14 quasi-Monte Carlo draws with the exact density of the sampler;
        known to some 1e-4.
    pareto_k, largest_weight : float
        Of its importance weights, the latter in units of their mean. A k below 0.5 is good; it says nothing where no
        weight is above 1.05.
    accepted : float
        Share of the draws of the map that are where the density is positive: 1 but for edges inside the box.
    modes : ndarray, (m, d)

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> banana = lambda x: -x[:, 0]**2 / 8 - (x[:, 1] - 0.3 * x[:, 0]**2)**2 / 2
    >>> posterior = pmapde.BrenierPosterior(banana).fit()
    >>> posterior.success, bool(abs(posterior.log_evidence - np.log(4 * np.pi)) < 1e-3)
    (True, True)
    >>> posterior.sample(5, np.random.default_rng(1)).shape, posterior.mean.round(2) + 0.0
    ((5, 2), array([0. , 1.2]))
    """

    def __init__(self, log_density, *, gradient=None, start=None, scale=1.0, bounds=None, reference="auto", tail=1e-5,
                 tolerance=None, max_cells=None, max_seconds=120.0, threads=None):
        for name, value in (("log_density", log_density), ("gradient", gradient)):
            if not callable(value) and not (name == "gradient" and value is None):
                raise TypeError(f"`{name}` must be a function of points (n, d), got {type(value).__name__}.")
        self.bounds = _bounds(bounds)
        if start is None and bounds is not None and len(self.bounds) not in (2, 3):
            raise ValueError(f"`bounds` must be two or three pairs, one a parameter, got {bounds!r}.")
        if start is None:
            self.start = np.array([[0.0, 0.0] if bounds is None else [_inside(*pair) for pair in self.bounds]])
        else:
            self.start = np.atleast_2d(_numbers(start, "start"))
        given = self.start.shape[-1]
        if self.start.ndim != 2 or given not in (2, 3) or not len(self.start) or not np.isfinite(self.start).all():
            raise ValueError(f"`start` must be two or three finite numbers, one a parameter, or rows of them, "
                             f"got {start!r}.")
        self.bounds = np.array([[-np.inf, np.inf]] * given) if bounds is None else self.bounds
        if len(self.bounds) != given:
            raise ValueError(f"`bounds` must be one pair for each of the {given} parameters, got {len(self.bounds)}.")
        low, high = self.bounds.T
        if not ((low <= self.start) & (self.start <= high)).all():
            raise ValueError(f"`start` must be within `bounds`, got {start!r} for {bounds!r}.")
        scales = _numbers(scale, "scale")
        if scales.shape not in ((), (1,), (given,)) or not (np.isfinite(scales).all() and scales.min() > 0):
            raise ValueError(f"`scale` must be positive, one number or one a parameter, got {scale!r}.")
        self.scale = np.broadcast_to(scales, (given,)).copy()
        if reference not in ("auto", "gaussian", "uniform"):
            raise ValueError(f"`reference` must be 'auto', 'gaussian' or 'uniform', got {reference!r}.")
        if not (isinstance(tail, Real) and 0 < tail <= 0.05):
            raise ValueError(f"`tail` must be between 0 and 0.05, the mass to leave out, got {tail!r}.")
        if tolerance is not None and not (isinstance(tolerance, Real) and 0 < tolerance < 1):
            raise ValueError(f"`tolerance` of the log evidence must be between 0 and 1, got {tolerance!r}.")
        if max_cells is not None and not (isinstance(max_cells, Real) and FEWEST**given <= max_cells < math.inf):
            raise ValueError(f"`max_cells` must be a number of cells, at least {FEWEST**given}, got {max_cells!r}.")
        if not (isinstance(max_seconds, Real) and max_seconds > 0):
            raise ValueError(f"`max_seconds` must be a positive time, got {max_seconds!r}.")
        self.log_density, self.gradient = log_density, gradient
        self.reference, self.tail, self.threads = reference, float(tail), threads
        self.max_seconds = float(max_seconds)
        self.tolerance = EVIDENCE[given] if tolerance is None else float(tolerance)
        self.max_cells = CELLS[given][1] ** given if max_cells is None else int(max_cells)

    def fit(self):
        """Solve; returns the object itself.

        Raises
        ------
        ValueError
            With the reason where the density cannot be put into a box: improper, heavy-tailed, nowhere finite.
        """
        d, deadline = self.start.shape[1], time.perf_counter() + self.max_seconds
        function, slope = LogDensity(self.log_density, self.gradient), None
        if self.gradient is not None:
            def slope(x):
                return function.log_density(x, True)[1]
        self._locator = Locator(function.log_density, self.start, self.scale, self.bounds, slope)
        self.whitening, self.modes = self._locator.whitening, np.array([x for _, x in self._locator.modes])
        box, self.log_evidence_quadrature, self.tail_mass = self._locator.box(self.tail)
        lengths = np.array([high - low for low, high in box]) / self._locator.narrowest()  # in scales to be resolved
        cells = min(CELLS[d][0], int(self.max_cells ** (1 / d)))
        while ((np.array(_shape(lengths, cells)) < PER_SCALE * lengths).any()
               and math.prod(_shape(lengths, 2 * cells)) <= ROUNDED * self.max_cells):
            cells *= 2
        previous, references, solved = None, None, {}
        while True:
            grid, found = Grid(_shape(lengths, cells), box), []
            log_masses, log_density, _ = self._on(grid)
            cut = self._is_cut(log_density, grid)
            references = references or self._references(cut)
            for reference in references:
                problem = self._problem(reference, grid, log_density)
                solution = self._solution(problem, solved.get(reference.name), deadline)
                if solution.success:
                    solved[reference.name] = solution
                found.append(Sampler(self._locator, reference, solution, log_masses))
                if found[-1].maps_well or cut and found[-1].solution.success or time.perf_counter() > deadline:
                    break  # what is missing is the grid's
            late = time.perf_counter() > deadline
            one = min(found, key=lambda one: (not self._status(one, previous).success, one.moment_error))
            if previous is None or one.solution.success or not (self.solution.success
                                                                or one.moment_error > self.moment_error):
                self._adopt(one, previous)
            if len(found) > 1:  # one whose equation was not solved is not tried again if the other's was
                references = [one.reference for one in found if one.solution.success] or references
            if late and not self.success:
                self.status = Status.MAX_SECONDS
            if late or self.success or math.prod(_shape(lengths, 2 * cells)) > ROUNDED * self.max_cells:
                return self
            cells, previous = 2 * cells, one.log_mass

    def _on(self, grid):
        """Logarithms of the posterior's masses in the cells of a grid in z, and of its density there."""
        def axes(axis, n):
            ends = np.linspace(*grid.box[axis], n + 1)
            return ends, (ends[1:] + ends[:-1]) / 2, np.log(np.diff(ends))
        return log_masses(lambda z: self._locator.values(self.whitening.backward(z)), axes, grid.shape)

    def _lowest(self, grid):
        """Logarithm of the uniform background, in z."""
        return self.log_evidence_quadrature + math.log(BACKGROUND * self.tail / np.prod(grid.lengths))

    def _is_cut(self, log_density, grid):
        """Whether the density jumps to zero inside the box, from more than the background."""
        beyond = continued(log_density)[log_density == -np.inf]
        return len(beyond) > 0 and float(beyond.max()) + self.whitening.log_determinant > self._lowest(grid)

    def _references(self, cut):
        names, d = (self.reference,), self.start.shape[1]
        if self.reference == "auto":
            names = ("uniform", "gaussian") if self._locator.bounded or cut else ("gaussian", "uniform")
        return [MatchedReference(name, d, self.tail / (2 * d)) for name in names]

    def _problem(self, reference, grid, log_density):
        """From the posterior on a grid in z, continued beyond its edges, to the reference, both no lower than a uniform
        background."""
        values = np.logaddexp(continued(log_density) + self.whitening.log_determinant, self._lowest(grid)).ravel()
        return TransportProblem(LogDensity(lambda z: values), reference.density(BACKGROUND * self.tail), grid=grid,
                                target_grid=reference.grid(grid.shape))

    def _solution(self, problem, coarser, deadline):
        """Of a problem, from that on a coarser grid if there is one."""
        grid, start = problem.grid, None
        if coarser is not None:
            start = (interpolate_cubic(coarser.displacement_potential, grid.shape, grid.periodic)
                     + problem.quadratic(grid.cell_centres()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StencilWarning)  # the errors of the sampler are measured
            # centred: of second order even where the Hessian is anisotropic; what fails is seen by the sampler
            return solve(problem, PseudoTransient(scheme="centred", conserve=False, subdivision=1), start=start,
                         tolerance=max(ALGEBRAIC * self.tolerance, SMALLEST), max_steps=MAX_STEPS,
                         max_seconds=max(0.0, deadline - time.perf_counter()), threads=self.threads)

    def _evidence_error(self, sampler, previous):
        change = 0.0 if previous is None else abs(sampler.log_mass - previous) / (2**self._locator.order - 1)
        apart = abs(sampler.log_evidence - self.log_evidence_quadrature)
        if not apart < math.inf:
            return math.inf
        return max(change, apart + self._locator.error + math.log1p(self._locator.unseen))

    def _status(self, sampler, previous):
        if not sampler.solution.success:
            return sampler.solution.status
        resolved = (self._evidence_error(sampler, previous) <= self.tolerance and sampler.moment_error <= MOMENTS
                    and sampler.weighs_well)
        return Status.CONVERGED if resolved else Status.NOT_RESOLVED

    def _adopt(self, sampler, previous):
        self._sampler = sampler
        for name in ("solution", "log_evidence", "mean", "covariance", "moment_error", "kl_gap", "pareto_k",
                     "largest_weight", "accepted"):
            setattr(self, name, getattr(sampler, name))
        self.log_evidence_error = self._evidence_error(sampler, previous)
        self.status = self._status(sampler, previous)

    @property
    def success(self):
        self._fitted()
        return self.status.success

    def sample(self, n, rng=None, *, sequence="independent"):
        """``n`` draws of the posterior, (n, d): the reference's, through the inverse map, those beyond an edge of the
        density rejected.

        ``rng``: a numpy.random.Generator. ``sequence="sobol"``: scrambled Sobol' points (any n, best a power of two)
        instead of independent draws; without ``rng`` a fixed scrambling.
        """
        numbers = self._uniforms(n, rng, sequence)
        return self._sampler.draw(n, numbers)

    def _uniforms(self, n, rng, sequence):
        """A function of m that returns the next m uniform numbers, (m, d)."""
        self._fitted()
        if not (rng is None and sequence == "sobol" or isinstance(rng, np.random.Generator)):
            raise TypeError(f"`rng` must be a numpy.random.Generator, for instance numpy.random.default_rng(), "
                            f"got {type(rng).__name__}.")
        if not isinstance(n, Integral) or n < 0:
            raise ValueError(f"`n` must be a number of draws, zero or more, got {n!r}.")
        return stream(self.start.shape[1], np.random.default_rng(0) if rng is None else rng, sequence)

    def importance(self, n, rng=None, *, sequence="independent"):
        """``(x, log_weights)``: draws and the logarithms of ``density / sampler's density``, exact, (n, d) and (n,).

        The sampler's density is ``nu(T(x)) det DT(x)`` with the piecewise affine map itself, so that weighted means are
        unbiased whatever the error of the map; the mean weight estimates the evidence in the box. Nothing is rejected:
        draws beyond an edge of the density have the weight zero.
        """
        return self._sampler.importance(self._uniforms(n, rng, sequence)(n))

    def marginal(self, axis, points=120):
        """``(values, density)`` of one parameter in the box, (points,) each, by quadrature over the others."""
        self._fitted()
        if not (isinstance(axis, Integral) and 0 <= axis < self.start.shape[1]):
            raise ValueError(f"`axis` must be the number of a parameter, 0 to {self.start.shape[1] - 1}, got {axis!r}.")
        if not (isinstance(points, Integral) and points > 1):
            raise ValueError(f"`points` must be an integer of at least two, got {points!r}.")
        grid = self.solution.problem.grid
        x = self.whitening.backward(grid.cell_centres().reshape(grid.ndim, -1).T)[:, axis]
        mass = self.solution.problem.source_values.ravel()
        order = np.argsort(x)
        share = np.cumsum(mass[order]) / mass.sum()
        low, high = x[order][np.searchsorted(share, [self.tail, 1 - self.tail])]
        values = np.linspace(low, high, points)
        logs = self._locator.marginal(axis, values)
        density = np.exp(logs - logs.max())
        return values, density / (density.sum() * (values[1] - values[0]))

    def decay(self, times, cells=None):
        """The flow from the affine map of the boxes: its :class:`Trajectory`, whose ledger has KL(rho_t | posterior).

        On a grid of ``cells`` per axis in the mean (64 or 32 by default), 8 at least. ``ledger["kl_reverse"]`` is the
        gap of the evidence lower bound at ``ledger["time"]``. A density that jumps to zero stands as continued beyond
        its edge.
        """
        self._fitted()
        if not (cells is None or isinstance(cells, Integral) and cells >= 8):
            raise ValueError(f"`cells` must be a whole number of cells per axis, at least 8, got {cells!r}.")
        from .trajectory import flow  # what draws the flow in is needed here only
        grid = self.solution.problem.grid
        coarse = Grid(_shape(grid.lengths, cells or {2: 64, 3: 32}[grid.ndim]), grid.box)
        problem = self._problem(self._sampler.reference, coarse, self._on(coarse)[1])
        return flow(problem, times, ledger="densities", threads=self.threads)

    def to_arviz(self, n, rng, names=None):
        """``n`` independent draws as one chain of an ArviZ data set (needs ``arviz``)."""
        try:
            arviz = importlib.import_module("arviz")
        except ImportError:
            raise ImportError("to_arviz needs the package arviz: pip install arviz.") from None
        names = names or [f"x{axis}" for axis in range(self.start.shape[1])]
        draws = self.sample(n, rng).T
        posterior = {name: column[None] for name, column in zip(names, draws)}
        if int(arviz.__version__.split(".")[0]) < 1:  # groups were arguments
            return arviz.from_dict(posterior=posterior)
        return arviz.from_dict({"posterior": posterior})

    def throw(self):
        """Raise a :class:`SolverError` if the fit has failed; returns the object itself."""
        self._fitted()
        if not self.success:
            raise SolverError(self.status, self)
        return self

    def _fitted(self):
        if not hasattr(self, "solution"):
            raise ValueError("this BrenierPosterior is not fitted yet: call fit() first.")

    def summary(self):
        """The scalars as a dict that JSON can hold."""
        self._fitted()
        names = ("success", "log_evidence", "log_evidence_quadrature", "log_evidence_error", "tail_mass",
                 "moment_error", "kl_gap", "pareto_k", "largest_weight", "accepted")
        rows = {name: getattr(self, name) for name in names}
        rows = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in rows.items()}
        return {"status": self.status.name, "message": self.status.value, **rows, "mean": self.mean.tolist(),
                "covariance": self.covariance.tolist(), "modes": self.modes.tolist(),
                "cells": list(self.solution.problem.grid.shape), "reference": self._sampler.reference.name}

    def __str__(self):
        if not hasattr(self, "solution"):
            return "BrenierPosterior, not fitted"
        sd = np.sqrt(np.diag(self.covariance))
        shape = "x".join(map(str, self.solution.problem.grid.shape))
        rejected = f", {1 - self.accepted:.1%} of the draws rejected" if self.accepted < 1 else ""
        rows = [("status", f"{self.status.name}: {self.status.value}"),
                ("evidence", f"log {self.log_evidence:.6f} +- {self.log_evidence_error:.1e} (quadrature "
                             f"{self.log_evidence_quadrature:.6f})"),
                ("mean", ", ".join(f"{value:.5g}" for value in self.mean)),
                ("sd", ", ".join(f"{value:.5g}" for value in sd)),
                ("sampler", f"moments within {self.moment_error:.1e} sd, KL gap {self.kl_gap:.1e}, Pareto k "
                            f"{self.pareto_k:.2f}, largest weight {self.largest_weight:.3g}{rejected}"),
                ("outside", f"{self.tail_mass:.1e} of the mass is outside the box"),
                ("grid", f"{shape} cells, {len(self.modes)} mode(s) found, reference {self._sampler.reference.name}")]
        return "\n".join(f"{name:<9} {text}" for name, text in rows)


def _numbers(values, name):
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be numbers, one a parameter, got {values!r}.") from None


def _bounds(bounds):
    if bounds is None:
        return None
    try:
        pairs = [(-np.inf if a is None else float(a), np.inf if b is None else float(b)) for a, b in bounds]
    except (TypeError, ValueError):
        raise ValueError(f"`bounds` must be one (lower, upper) pair a parameter, got {bounds!r}.") from None
    if not all(a < b for a, b in pairs):
        raise ValueError(f"`bounds` must have lower < upper for every parameter, got {bounds!r}.")
    return np.array(pairs)


def _inside(low, high):
    """Zero where that is allowed, else the middle, or a point one from the finite bound."""
    if low < 0 < high:
        return 0.0
    if np.isfinite([low, high]).all():
        return 0.5 * (low + high)
    return low + 1 if np.isfinite(low) else high - 1


def _shape(lengths, cells):
    """Cells per axis, ``cells`` in the geometric mean, in proportion to the lengths (at most four to one)."""
    ratios = np.clip(lengths / np.exp(np.log(lengths).mean()), 0.5, 2.0)
    ratios /= np.exp(np.log(ratios).mean())
    return tuple(int(max(8, 8 * round(cells * ratio / 8))) for ratio in ratios)
