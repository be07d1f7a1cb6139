"""Three ways to learn the log ratio of model to data, ``D = log(rho / mu)``, from samples."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, optimize
from scipy.special import expit

from .density import GridDensity
from .tensor_splines import Design, TensorSplines

RIDGE = 1e-5
"""Plain ridge beside the difference penalty, relative to it: what neither data nor differences decide is zero."""
NEWTON_STEPS, NEWTON_TOLERANCE = 60, 1e-7
FUNCTIONS, SCORE_FUNCTIONS = {2: 32, 3: 16}, {2: 24, 3: 16}
"""B-splines per axis. Score matching knows nothing of edges and little of masses: it runs away more often with more."""
ORDER = 3
"""Of the penalised differences: the logits between Gaussians are free."""
DETAIL, KERNEL = 2, 4
"""Cells across the finest detail of a density on a grid, and of a kernel estimate, whose kernel has a width itself."""
STIFF = 1e4
"""Such a penalty leaves nothing but what it does not see."""
PENALTIES = tuple(10.0 ** (k / 2) for k in range(8, -7, -1))
WEAK = tuple(10.0 ** (k / 2) for k in range(-7, -11, -1))
"""For densities that jump, whose likelihood may well ask for such; scores of which nothing is to be learnt there."""


@dataclass(frozen=True)
class DensityRatio:
    """The model's density, known on the grid, over a kernel density estimate of the data's.

    Gaussian kernel with reflection at the faces (the heat equation on the box: Botev, Grotowski & Kroese, Annals of
    Statistics 38, 2010), a cosine transform of the binned samples. The bandwidth, one number in whitened coordinates,
    maximises the leave-one-out likelihood ``sum_i log f_{-i}(x_i)``.

    Parameters
    ----------
    bandwidth : float, optional
        In whitened units; chosen from the data if omitted.
    """

    bandwidth: float | None = None

    def __post_init__(self):
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"`bandwidth` must be positive, got {self.bandwidth!r}.")

    def details(self, grid):
        """Widths along the axes that the estimate can have at least."""
        return KERNEL * grid.spacing if self.bandwidth is None else np.full(grid.ndim, float(self.bandwidth))

    def prepare(self, data, grid, background, deadline=math.inf):
        return _FixedEstimate(*kernel_estimate(data, grid, background, self.bandwidth))


@dataclass(frozen=True)
class LogisticRatio:
    """Logistic regression of generated (label 1) against real samples (label 0): the logit estimates ``log(rho / mu)``.

    ``D`` is a tensor-product cubic spline, the loss that of the logistic model plus ``lambda`` times a difference
    penalty and a small ridge: strictly convex, solved by Newton's method (iteratively reweighted least squares).

    The model's density is known on the grid, so that nothing has to be generated: with the number of generated samples
    going to infinity, each of weight one, the loss tends (up to a constant in ``D``) to
    ``mean_i D(x_i) + int exp(-D) d rho``, minus the log-likelihood of ``mu = rho exp(-D)`` (Fithian & Wager, Ann. Appl.
    Stat. 7, 2013), with the integral taken on the grid. The means of all functions the penalty leaves free, low moments
    among them, are then those of the data. A finite number generates samples and gives both classes the weight one
    half; their scatter adds to that of the data.

    ``lambda`` minimises the approximate leave-one-out loss, one Newton step from the fit for every sample left out (Rad
    & Maleki, J. R. Statist. Soc. B 82, 2020), on a path from strong to weak.

    Parameters
    ----------
    functions : int, optional
        B-splines per axis (default 32 in 2D, 16 in 3D).
    generated : float
        Samples generated per real one; default infinity.
    order : {3, 2, 1}, optional
        Of the differences that are penalised; polynomials of a lower one per axis are free: with 3, the logits between
        Gaussians.
    penalties : sequence of float
        Candidates for ``lambda``, relative to the curvature of the loss.
    """

    functions: int | None = None
    generated: float = math.inf
    order: int | None = None
    penalties: tuple = PENALTIES + WEAK
    most = FUNCTIONS

    def __post_init__(self):
        _check(self)
        if not self.generated > 0:
            raise ValueError(f"`generated` must be positive, got {self.generated!r}.")

    def details(self, grid):
        return _details(self, grid)

    def prepare(self, data, grid, background, deadline=math.inf):
        return _Learner(self, data, grid, background, deadline)

    def learn(self, learner, generated, model):
        loss = _Likelihood(learner, model) if generated is None else _TwoClasses(learner, generated)
        scale, theta = _scale(loss, learner), np.zeros(learner.splines.size)

        def fit(candidate):
            nonlocal theta
            theta, factor, logits = _newton(loss, learner, candidate * scale, theta)
            return loss.left_out(logits, loss.design.leverages(factor.inverse())), theta

        return _best(fit, learner)


class _TwoClasses:
    """``sum_i w_i softplus(s_i D(x_i))`` over generated (s = -1) and real (s = 1) samples."""

    def __init__(self, learner, generated):
        self.design = Design(learner.splines, np.concatenate([generated, learner.data, learner.anchors,
                                                              learner.anchors]))
        order, share = self.design.order, learner.background
        shares = [np.full(len(points), 1 / len(points)) for points in (generated, learner.anchors)]
        shares = [shares[0], learner.shares, shares[1], shares[1]]
        self.signs = np.repeat([-1.0, 1.0, -1.0, 1.0], [len(part) for part in shares])[order]
        self.weights = np.concatenate([weight / 2 * part for weight, part
                                       in zip((1 - share, 1 - share, share, share), shares)])[order]
        # the anchors are no samples: they are not left out
        self.sampled = order < len(generated) + len(learner.data)

    def value(self, logits):
        return float(self.weights @ np.logaddexp(0, self.signs * logits))

    def slopes(self, logits):
        """First and second derivative of every term."""
        chance = expit(self.signs * logits)
        return self.weights * self.signs * chance, self.weights * chance * (1 - chance)

    def left_out(self, logits, leverage):
        slope, curvature = self.slopes(logits)
        leverage = self.sampled * leverage
        return self.value(logits + slope * leverage / np.maximum(1 - curvature * leverage, 0.05))


class _Likelihood:
    """``mean_i D(x_i) + int exp(-D) d rho``, the integral over the cells of the grid, both sides with background."""

    def __init__(self, learner, model):
        self.design, share = learner.on_data_and_cells, learner.background
        data, cells = np.zeros(len(learner.data)), np.full(learner.grid.size, share / learner.grid.size)
        self.real = np.concatenate([(1 - share) * learner.shares, cells])[self.design.order]
        mass = (1 - share) * model.values.ravel() / model.values.sum()
        self.model = np.concatenate([data, mass + cells])[self.design.order]
        self.sampled, self.background = self.design.order < len(data), share

    def value(self, logits):
        with np.errstate(over="ignore", invalid="ignore"):  # of a trial that Newton's line search will refuse
            return float(self.real @ logits + self.model @ np.exp(-logits))

    def slopes(self, logits):
        """First and second derivative of every term."""
        weights = self.model * np.exp(-logits)
        return self.real - weights, weights

    def left_out(self, logits, leverage):
        # Newton's step is h, a sample's share in the model around it (times how often it was given, all of which are
        # left out), and forgives spikes on single samples;
        # -log(1 - h) is exact for histograms, and rather too large for outlying samples
        share = np.minimum(self.real * leverage, 1 - self.background)
        return self.value(logits - self.sampled * np.log1p(-share))


def _newton(loss, learner, strength, theta):
    """Coefficients that minimise the loss plus ``strength`` times the penalty, the factor of its Hessian, and the
    logits."""
    design = loss.design

    def penalised(theta):
        logits, pull = design.matrix @ theta, strength * (learner.penalty @ theta)
        return logits, pull, loss.value(logits) + 0.5 * theta @ pull

    logits, pull, value = penalised(theta)
    for _ in range(NEWTON_STEPS):
        slope, curvature = loss.slopes(logits)
        factor = (design.gram(curvature) + strength * learner.penalty_blocks).factor()
        gradient = design.matrix.T @ slope + pull
        step, length = factor.solve(-gradient), 1.0
        decrease = float(-gradient @ step)
        if decrease < NEWTON_TOLERANCE:
            break
        while length > 1e-6:  # Armijo's rule
            trial = theta + length * step
            found = penalised(trial)
            if found[2] <= value - 1e-4 * length * decrease:
                theta, (logits, pull, value) = trial, found
                break
            length /= 2
        else:
            break
    return theta, factor, logits


@dataclass(frozen=True)
class ScoreRatio:
    """Score matching: ``grad D`` fitted to ``grad log rho - grad log mu`` in L2(mu).

    By parts (Hyvärinen, J. Mach. Learn. Res. 6, 2005) the loss is, up to a constant, the mean over the data of
    ``|grad D|^2 / 2 - <grad log rho, grad D> - Laplace D``: quadratic, one linear system per penalty, whose
    leave-one-out losses are exact. The data's density must vanish towards the faces of the box.

    The score of a mixture of parts with nothing in between says nothing about their masses: those of plain score
    matching are arbitrary there. So its ``D`` is then calibrated: the functions that the penalty leaves free are added
    by maximum likelihood, which makes their means under the model, with the density known on the grid, those of the
    data. That corrects the masses of a few parts, not of many (four per axis in 2D, see ``order``).

    Parameters
    ----------
    functions, order, penalties
        As for :class:`LogisticRatio`, by default 24 functions in 2D.
    calibrate : bool
        False: plain score matching.
    """

    functions: int | None = None
    order: int | None = None
    penalties: tuple = PENALTIES
    calibrate: bool = True
    generated, most = math.inf, SCORE_FUNCTIONS

    def __post_init__(self):
        _check(self)

    def details(self, grid):
        return _details(self, grid)

    def prepare(self, data, grid, background, deadline=math.inf):
        return _Learner(self, data, grid, background, deadline)

    def learn(self, learner, generated, model):
        d = learner.data.shape[1]
        unit = np.eye(d, dtype=int)
        design = Design(learner.splines, learner.data)
        slopes, laplace = [design.derivative(row) for row in unit], [design.derivative(2 * row) for row in unit]
        curves = sum(part.values for part in laplace)
        score, shares = model.log_density(design.points, gradient=True)[1], learner.shares[design.order]
        gram = sum((slope.gram(shares) for slope in slopes), start=learner.splines.zeros())
        right = (sum(slope.matrix.T @ (shares * score[:, a]) for a, slope in enumerate(slopes))
                 + sum(part.matrix.T @ shares for part in laplace))
        # the background's own score is zero: no integration by parts is needed for it
        around = Design(learner.splines, learner.anchors)
        weight = learner.background / (1 - learner.background) / len(learner.anchors)
        there = model.log_density(around.points, gradient=True)[1]
        for a, row in enumerate(unit):
            slope = around.derivative(row)
            gram = gram + slope.gram(np.full(len(there), weight))
            right += weight * (slope.matrix.T @ there[:, a])
        scale = gram.trace() / learner.penalty_blocks.trace()

        def fit(candidate):
            factor = (gram + candidate * scale * learner.penalty_blocks).factor()
            theta = factor.solve(right)
            rows = np.stack([slope.values for slope in slopes] + [curves], axis=1)
            return _left_out_score(design, factor.inverse(), theta, rows, score, shares), theta

        theta, notes = _best(fit, learner)
        return (theta + _calibration(learner, model, theta) if self.calibrate else theta), notes


def _calibration(learner, model, theta):
    """Coefficients, free of penalty, that make up for what ``theta`` leaves of low moments."""
    log_density = np.log(model.values) - learner.splines.on_grid(theta, learner.grid)
    loss = _Likelihood(learner, GridDensity(np.exp(log_density - log_density.max()), learner.grid, points=True))
    return _newton(loss, learner, STIFF * _scale(loss, learner), np.zeros(learner.splines.size))[0]


def _scale(loss, learner):
    """The curvature of the loss at zero in units of the penalty."""
    curvature = loss.slopes(np.zeros(len(loss.design.points)))[1]
    return loss.design.gram(curvature).trace() / learner.penalty_blocks.trace()


def _left_out_score(design, inverse, theta, rows, score, shares):
    """Mean loss of every sample under the fit to the others (Sherman, Morrison & Woodbury); ``rows`` (n, d + 1, 4^d):
    the gradients of the functions and their Laplacians; ``shares``: of the samples, in all."""
    d, total = score.shape[1], 0.0
    for part, functions, entries in design.between(inverse):
        own, s = rows[part], score[part]
        middle = shares[part, None, None] * (own @ entries @ own.transpose(0, 2, 1))
        # without the sample: (H - G'G) theta' = H theta - G's - L, with the H of the sum over all
        changed = own @ theta[functions] - np.einsum("nrs,ns->nr", middle[:, :, :d], s) - middle[:, :, d]
        solved = np.linalg.solve(np.eye(d) - middle[:, :d, :d], changed[:, :d, None])[:, :, 0]
        value = changed + np.einsum("nrs,ns->nr", middle[:, :, :d], solved)
        loss = 0.5 * (value[:, :d] ** 2).sum(axis=1) - (value[:, :d] * s).sum(axis=1) - value[:, d]
        total += float(shares[part] @ loss)
    return total


def _best(fit, learner):
    """The coefficients of least left-out loss: on a path from strong to weak, every other candidate, given up after
    two that are worse, then among the neighbours of the best, and on from there while they are better; where a choice
    was made before, among the neighbours of that only. Past the deadline no more than one is tried, that choice or the
    middle of the path.
    """
    path, last, tried = sorted(learner.penalties, reverse=True), learner.choice, {}

    def loss_of(i):
        if not 0 <= i < len(path) or (i not in tried and tried and time.perf_counter() > learner.deadline):
            return math.inf
        if i not in tried:
            tried[i] = fit(path[i])
        return tried[i][0]

    if last is None and time.perf_counter() > learner.deadline:
        last = len(path) // 2
    if last is None:
        last, i = 0, 0
        while i < len(path) and i <= last + 4:
            last, i = min(last, i, key=loss_of), i + 2
    best = min(last, last - 1, last + 1, key=loss_of)
    while best != last and loss_of(2 * best - last) < loss_of(best):
        best, last = 2 * best - last, best
    loss, theta = tried[best]
    learner.choice = best
    return theta, {"penalty": float(path[best]), "loss": loss}


def _check(method):
    try:
        values = np.asarray(method.penalties, float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim != 1 or not len(values) or not ((values > 0) & (values < math.inf)).all():
        raise ValueError(f"`penalties` must be a sequence of positive numbers, got {method.penalties!r}.")
    value = method.functions
    if value is not None and not (isinstance(value, (int, np.integer)) and value >= 5):
        raise ValueError(f"`functions` must be a whole number >= 5, got {value!r}.")
    if method.order not in (None, 1, 2, 3):
        raise ValueError(f"`order` must be 1, 2 or 3, got {method.order!r}.")


def _details(method, grid):
    """The distance of the knots along the axes, on coarse grids that of a few cells."""
    return np.maximum(grid.lengths / ((method.functions or method.most[grid.ndim]) - 3), DETAIL * grid.spacing)


class _FixedEstimate:
    """The data's density estimated once, whatever the model."""

    generated, modes = 0, 24

    def __init__(self, density, notes):
        self.density, self.notes = density, notes

    def log_source(self, *_):
        return np.log(self.density), self.notes


class _Learner:
    """Ratios in the space of splines; keeps the data, equal rows once, with their ``shares``.

    Both sides are mixed with ``background`` of uniform mass, by ``anchors``, one per knot interval: where there is
    neither data nor model, ``D`` is zero instead of anything.
    """

    def __init__(self, method, data, grid, background, deadline):
        self.method, self.grid, self.background, self.deadline = method, grid, background, deadline
        self.data, counts = distinct(data)
        self.shares = counts / len(data)
        self.generated = int(method.generated * len(data)) if math.isfinite(method.generated) else 0
        self.penalties, self.choice = method.penalties, None  # candidates; the place of the last step's among them
        self.modes = count = method.functions or method.most[grid.ndim]
        self.splines = TensorSplines(grid.box, count)
        self.penalty, self.penalty_blocks = self.splines.penalty(method.order or ORDER, RIDGE)
        self.anchors = grid.with_shape((count - 3,) * grid.ndim).cell_centres().reshape(grid.ndim, -1).T

    @cached_property
    def on_data_and_cells(self):
        return Design(self.splines, np.concatenate([self.data, self.grid.cell_centres().reshape(self.grid.ndim, -1).T]))

    def log_source(self, model, generated, penalty=None):
        """``log rho - D`` on the grid: what the learnt ratio takes the data's log-density for. The best of the
        candidates for the penalty is looked for around the one given, if there is one."""
        if penalty is not None:
            self.choice = sorted(self.penalties, reverse=True).index(penalty)
        theta, notes = self.method.learn(self, generated, model)
        return np.log(model.values) - self.splines.on_grid(theta, self.grid), notes


def distinct(data):
    """The rows, equal ones (but for rounding, in widths of the data) once, and how often each was given.

    Whoever leaves out one of several equal rows to see how the others foretell it finds that the best is a spike.
    """
    first, counts = np.unique(np.round(data, 9), axis=0, return_index=True, return_counts=True)[1:]
    return (data, np.ones(len(data))) if len(first) == len(data) else (data[first], counts.astype(float))


def kernel_estimate(data, grid, background, bandwidth=None):
    """Density on the grid, mixed with ``background`` of uniform mass, and its bandwidth."""
    n, volume = len(data), float(grid.lengths.prod())
    data, times = distinct(data)
    index = np.minimum(((data - grid.lower) / grid.spacing).astype(int), np.array(grid.shape) - 1)
    counts = np.zeros(grid.shape)
    np.add.at(counts, tuple(index.T), times)
    modes = fft.dctn(counts)
    squares = sum((np.pi * np.arange(m) / length).reshape([-1 if a == b else 1 for b in range(grid.ndim)]) ** 2
                  for a, (m, length) in enumerate(zip(grid.shape, grid.lengths)))

    def smoothed(width):
        values = fft.idctn(modes * np.exp(-0.5 * width**2 * squares)) / (n * grid.cell_volume)
        return np.maximum(values, 0.0)

    def loss(log_width):
        width = np.exp(log_width)
        own = np.prod([_own_share(width, h) / h for h in grid.spacing])  # of its cell's value, by the sample itself
        left_out = np.maximum(n * smoothed(width)[tuple(index.T)] - times * own, 0.0) / (n - times)
        return -float(times @ np.log((1 - background) * left_out + background / volume)) / n

    if bandwidth is None:
        low, high = 0.7 * float(grid.spacing.max()), 1.0
        bandwidth = float(np.exp(optimize.minimize_scalar(loss, (np.log(low), np.log(high)), method="bounded",
                                                          bounds=(np.log(low), np.log(high))).x))
    density = smoothed(bandwidth)
    density /= density.sum() * grid.cell_volume
    return (1 - background) * density + background / volume, {"bandwidth": bandwidth}


def _own_share(width, spacing):
    """Mass that a Gaussian of the given width, sampled on the grid, leaves in its own cell."""
    steps = np.arange(-int(8 * width / spacing) - 1, int(8 * width / spacing) + 2) * spacing
    weights = np.exp(-0.5 * (steps / width) ** 2)
    return 1.0 / weights.sum()
