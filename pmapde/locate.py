"""Where an unnormalised density has its mass: modes, scales, whitening, quadrature over the whole space, boxes."""
from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from .support import ZERO, log_masses
from .whitening import Whitening

QUADRATURE = {2: 320, 3: 112}
"""Points per axis of the quadrature over the whole space."""
SUMMITS, WITHIN, AS_FAR_AS = 160, 0.3, 1e3
"""Points per axis (2D; fewer in 3D) of the first look around: evenly spread up to ``WITHIN`` scales, in a geometric
sequence from there on."""
SPACINGS, MORE = 2.0, {2: 8.0, 3: 3.0}
"""Distances of the quadrature's points that a standard deviation of a mode must span; how many times as many points
there are at most for that, along an axis and in all."""
FARTHER = 1.5
"""How many times as many where the mass reaches the outermost of them."""
FEWER = 0.8
"""Share of the quadrature's points on the grid that it is compared with."""
STARTS = 12
SEED = 20250409
FAR = 12.0
"""Scales beyond which points do not count for the next scales: those of a heavy tail would never settle."""
ROUNDS = 12
SETTLED = 0.02
APART = 0.05
FLAT = 1e-4
"""Curvature at a mode, in given scales, below which it says nothing: a hundred scales."""
REACHED = 2.0
"""Fall of the logarithm from a mode where a density that is not curved there has reached its scale."""
ASIDE = 0.1
"""Lengths of the box beyond its faces from which on a mode is outside, not at an edge of the density."""
RELEVANT = 25.0
"""Modes whose mass, by Laplace's approximation, is less than the largest by more (in the logarithm) do not count."""
COUNTS = 7.0
"""The same where cells are shared out: a thousandth."""
SEPARATE = 4.0
"""Standard deviations, of one of them, between modes that are masses of their own."""
PENALTY = 1e8
"""Fall of the logarithm that stands for minus infinity: what codes give where they are not defined."""
LEAST_ORDER = 0.25
"""Of a quadrature, as its changes tell it."""
ROUNDING = 2.0**-50
"""Error of a logarithm, in its size."""
SLOPE = 1e-2
"""Error of a directional derivative, in the largest value around, from which on a gradient is taken for a wrong one."""


class Locator:
    """Finds the mass of ``exp(log_density)`` in d = 2 or 3 dimensions, within ``bounds`` (d, 2), infinite where open.

    Modes by quasi-Newton searches from points scattered around ``starts`` (m, d) (with ``gradient``, (n, d) to (n, d),
    or differences), and from the local maxima of a product grid of ``AS_FAR_AS`` scales; their curvatures; then
    quadrature on a product grid that covers the whole support, ``z = t / (1 - t^2)`` along open axes, from which mean,
    covariance, and the grid itself are improved until they settle. Everything is deterministic. A mode whose basin
    holds neither a start nor a point of the grid is not found.
    """

    def __init__(self, log_density, starts, scale, bounds, gradient=None):
        self.log_density, self.bounds, self.gradient = log_density, bounds, gradient
        self.dimension, self.floor = len(bounds), -np.inf
        self.bounded = bool(np.isfinite(bounds).any())
        if gradient is not None:
            for start in starts:
                self._check_gradient(start, scale)
        self.modes = self._modes(np.vstack([self._scattered(start, scale) for start in starts]))
        guess = self._first_guess(scale)
        far = self._summits(guess)
        if len(far):
            self.modes = self._modes(np.vstack([[x for _, x in self.modes], far]))
            guess = self._first_guess(scale)
        self.whitening = self._settled(guess)
        self.modes = self._apart(self.modes)

    def _inside(self, x):
        return ((x >= self.bounds[:, 0]) & (x <= self.bounds[:, 1])).all(axis=1)

    def values(self, x):
        """Log density at (n, d), -inf outside the bounds, and where it is below ``floor``."""
        out = self._raw(x)
        if np.isnan(out).any() or (out == np.inf).any():
            where = x[np.isnan(out) | (out == np.inf)][0]
            raise ValueError(f"`log_density` must be a number or -inf, got {self.log_density(where[None])[0]} at "
                             f"{where.tolist()}; mend it there, exclude the point by bounds=, or, if it lies on a "
                             f"bound, take another parameter (a logarithm or logit).")
        out[out < self.floor] = -np.inf
        return out

    def _raw(self, x):
        inside = self._inside(x)
        out = np.full(len(x), -np.inf)
        if inside.any():
            out[inside] = self.log_density(x[inside])
        return out

    def _check_gradient(self, start, scale):
        """One sentence where the gradient is not the density's at and around the start."""
        step = 1e-5 * scale
        for aside in (0.0, 0.3, -0.7):  # at a mode any multiple would do
            middle = start + aside * scale * np.where(np.arange(self.dimension) % 2, -1, 1)
            points = middle + np.vstack([np.zeros(self.dimension), np.diag(step), -np.diag(step)])
            values = self.values(points)
            if not np.isfinite(values).all():
                continue
            given = self.gradient(middle[None])[0]
            after, before = values[1:self.dimension + 1] - values[0], values[0] - values[self.dimension + 1:]
            differences = (after + before) / 2
            largest = max(np.abs(values[1:] - values[0]).max(), 1e-8 * np.abs(values).max())
            aside = np.abs(differences - given * step) - np.abs(after - before) / 2  # at a kink any value between
            if not aside.max() <= SLOPE * largest + 1e-12:
                raise ValueError(f"`gradient` is not that of `log_density`: at {middle.tolist()} it is "
                                 f"{given.tolist()}, differences give {(differences / step).tolist()}; mend it or "
                                 f"leave it out.")

    def _scattered(self, start, scale):
        """A start and points around it where the density is positive, (n, d)."""
        rng = np.random.default_rng(SEED)
        starts = np.vstack([start, start + scale * rng.standard_normal((STARTS // 2, self.dimension)),
                            start + 5 * scale * rng.standard_normal((STARTS - STARTS // 2, self.dimension))])
        starts = np.clip(starts, *self.bounds.T)
        finite = np.isfinite(self.values(starts))
        if not finite.any():
            raise ValueError(f"`log_density` is -inf at the start {start.tolist()} and everywhere around it: pass "
                             f"start= a point where it is finite.")
        return starts[finite]

    def _summits(self, whitening):
        """Local maxima of the log density on a product grid, the highest first, (m, d): a mode far away shows there,
        however small the density is at the points around it."""
        n = int(SUMMITS * QUADRATURE[self.dimension] / QUADRATURE[2])
        centres = []
        for (low, high), mean, scale in zip(self.bounds, whitening.mean, np.diag(whitening.root)):
            low, high = ((low - mean) / scale, (high - mean) / scale) if self.bounded else (-np.inf, np.inf)
            ends = np.arcsinh(np.clip([low, high], -AS_FAR_AS, AS_FAR_AS) / WITHIN)
            centres.append(WITHIN * np.sinh(ends[0] + (np.arange(n) + 0.5) / n * (ends[1] - ends[0])))
        mesh = whitening.backward(np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, self.dimension))
        with np.errstate(all="ignore"):  # nobody asked for numbers as far out
            logs = np.nan_to_num(self._raw(mesh), nan=-np.inf, posinf=-np.inf, neginf=-np.inf)
        logs = logs.reshape((n,) * self.dimension)
        inner = (slice(1, -1),) * self.dimension
        highest = (logs == ndimage.maximum_filter(logs, 3)) & np.isfinite(logs)
        outer = np.zeros_like(highest)
        outer[inner] = highest[inner]  # what rises towards the border is no summit
        found = np.flatnonzero(outer)
        return mesh[found[np.argsort(-logs.ravel()[found], kind="stable")][:STARTS]]

    def _modes(self, starts):
        """``(log density, x)`` of the local maxima that searches from ``starts`` find, the highest first."""
        low, high = self.bounds.T
        offset = self.values(starts).max()

        def negative(x):
            nonlocal beyond
            value = self.values(np.atleast_2d(x))[0]
            beyond = beyond or value < offset - PENALTY
            return offset - value if value >= offset - PENALTY else 1e30

        def slope(x):
            return np.nan_to_num(-self.gradient(np.atleast_2d(x))[0])
        modes = []
        for point in starts:
            beyond = False
            found = minimize(negative, point, method="L-BFGS-B", jac=None if self.gradient is None else slope,
                             bounds=[(None if np.isinf(a) else a, None if np.isinf(b) else b) for a, b in self.bounds])
            if beyond or not found.success:  # no gradient leads along the edge of a support
                found = minimize(negative, found.x, method="Nelder-Mead", bounds=list(zip(low, high)),
                                 options={"xatol": 1e-6, "fatol": 1e-8})
            modes.append((offset - found.fun, found.x))
        modes.sort(key=lambda pair: -pair[0])
        kept = []
        for value, x in modes:
            apart = (np.abs(x - other).max() > 1e-3 * (1 + np.abs(x).max()) for _, other in kept)
            if np.isfinite(x).all() and all(apart):
                kept.append((value, x))
        return kept

    def _apart(self, modes):
        """Without those that are the same to ``APART`` whitened units: where a search stopped says no more."""
        kept = []
        for value, x in modes:
            z = self.whitening.forward(x[None])
            if all(np.abs(z - self.whitening.forward(other[None])).max() > APART for _, other in kept):
                kept.append((value, x))
        return kept

    def _first_guess(self, scale):
        """Mean and covariance of the mixture of the modes' Gaussians; ``modes`` without those that do not count."""
        covariances = [self._curvature(mode, scale) for _, mode in self.modes]
        weights = np.array([value + 0.5 * np.linalg.slogdet(covariance)[1]
                            for (value, _), covariance in zip(self.modes, covariances)])
        counts = np.flatnonzero(weights > weights.max() - RELEVANT)
        self.modes, weights = [self.modes[k] for k in counts], weights[counts]
        self._covariances, means = [covariances[k] for k in counts], [mode for _, mode in self.modes]
        self._laplace = list(zip(means, weights + 0.5 * self.dimension * np.log(2 * np.pi)))
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        mean = weights @ np.array(means)
        covariance = sum(w * (c + np.outer(m - mean, m - mean)) for w, c, m in zip(weights, self._covariances, means))
        return self._whitening(mean, covariance)

    def _curvature(self, mode, scale):
        """Inverse of minus the Hessian where that is positive, the given scales along the axes elsewhere."""
        d, step = self.dimension, 1e-3 * scale
        for _ in range(40):  # a step over which the logarithm falls by a good fraction of one
            corners = mode + np.vstack([np.eye(d), -np.eye(d)]) * step
            drops = self.values(np.atleast_2d(mode))[0] - self.values(corners)
            if not np.isfinite(drops).all() or np.max(drops) > 0.5:
                step = step / 2
            elif np.max(drops) < 0.02:
                step = step * 2
            else:
                break
        else:  # a jump beside the mode, however near: or flat as far as it was looked
            return self._reaches(mode, scale)
        unit = np.eye(d) * step
        pairs = [(i, j) for i in range(d) for j in range(i + 1)]
        points = np.array([mode + a * unit[i] + b * unit[j] for i, j in pairs for a in (1, -1) for b in (1, -1)])
        hessian = np.zeros((d, d))
        for (i, j), four in zip(pairs, self.values(points).reshape(len(pairs), 4)):
            curvature = four[1] + four[2] - four[0] - four[3] if np.isfinite(four).all() else np.nan
            hessian[i, j] = hessian[j, i] = curvature / (4 * step[i] * step[j])
        if np.isfinite(hessian).all():
            eigenvalues, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
            if eigenvalues.max() > 0:
                reach = [self._reach(mode, scale * v) if value < FLAT else value**-0.5
                         for value, v in zip(eigenvalues, vectors.T)]
                return (vectors * np.square(reach) @ vectors.T) * np.outer(scale, scale)
        return self._reaches(mode, scale)

    def _reaches(self, mode, scale):
        """A covariance by how far the density reaches along the axes, the given scales where it does not end."""
        reach = np.array([self._reach(mode, scale * v) for v in np.eye(self.dimension)])
        return np.diag(np.where(reach < FLAT**-0.5, reach, 1.0) * scale)**2

    def _reach(self, mode, direction):
        """How far from ``mode`` the logarithm of the density is ``REACHED`` lower, either way, in lengths of
        ``direction``: 100 at most, 1e-4 at least. Where there is an edge, or nothing is curved, it says more than
        derivatives."""
        steps = np.geomspace(1e-4, FLAT**-0.5, 61)
        values = self.values(np.vstack([mode[None], mode + np.outer(np.r_[steps, -steps], direction)]))
        sides = (values[1:] > values[0] - REACHED).reshape(2, -1)
        return max(steps[-1] if side.all() else steps[max(0, np.argmin(side) - 1)] for side in sides)

    def _whitening(self, mean, covariance):
        if self.bounded:  # bounds must stay faces of the box
            covariance = np.diag(np.diag(covariance))
        covariance = 0.5 * (covariance + covariance.T)
        covariance += 1e-12 * np.diag(np.diag(covariance))
        return Whitening(mean, np.linalg.cholesky(covariance))

    def quadrature(self, whitening, shape, zero=ZERO):
        """``(edges, log_masses, z, error)``: per axis the edges of its cells in z, masses in the logarithm, centres;
        error of the whole mass for what is cut, relative."""
        def axes(axis, n):
            low, high = (self.bounds[axis] - whitening.mean[axis]) / whitening.root[axis, axis]
            return _covering(low, high, n) if self.bounded else _covering(-np.inf, np.inf, n)
        log_mass, logs, error = log_masses(lambda z: self.values(whitening.backward(z)), axes, shape, zero)
        self.floor = max(self.floor, logs.max() - zero)
        edges, centres, _ = zip(*(axes(axis, n) for axis, n in enumerate(shape)))
        return edges, log_mass, centres, error

    def _settled(self, whitening):
        """The whitening improved by the moments of the quadrature until they change little."""
        for _ in range(ROUNDS):
            # penalties count in the end: a coarse grid has steep slopes that look like them
            edges, log_mass, z, _ = self.quadrature(whitening, self._points(whitening, 0.5), np.inf)
            if log_mass.max() == -np.inf:
                raise ValueError("`log_density` is -inf wherever it was looked at: pass start= and scale= that fit it.")
            mass = np.exp(log_mass - log_mass.max())
            near = [np.abs(centres) <= FAR for centres in z]
            mass = mass[np.ix_(*near)]
            mass /= mass.sum()
            mean, covariance = _moments(mass, [centres[chosen] for centres, chosen in zip(z, near)])
            for axis, (ends, chosen) in enumerate(zip(edges, near)):  # of a mass in a single cell too
                covariance[axis, axis] += _along(mass, axis) @ np.diff(ends)[chosen]**2 / 12
            change = max(np.abs(mean).max(), np.abs(covariance - np.eye(self.dimension)).max())
            if self.bounded:
                change = max(np.abs(mean).max(), np.abs(np.diag(covariance) - 1).max())
            root = whitening.root
            whitening = self._whitening(whitening.backward(mean[None])[0], root @ covariance @ root.T)
            if change < SETTLED:
                break
        return whitening

    def _points(self, whitening, share=1.0):
        """Of the quadrature, per axis; more where a mode aside is narrow: its width in t against the distance of the
        points."""
        more = np.ones(self.dimension)
        for _, width in self._widths(whitening):
            more = np.maximum(more, SPACINGS * 2 / (share * QUADRATURE[self.dimension]) / width)
        most = MORE[self.dimension]
        more = np.minimum(more, most)
        more *= min(1.0, most / more.prod()) ** (1 / self.dimension)
        return tuple(int(share * QUADRATURE[self.dimension] * times) for times in more)

    def _widths(self, whitening):
        """``(log mass, (d,))`` of modes that are masses of their own: standard deviations in t, along the axes."""
        for (mode, weight), covariance in self._separate():
            deviation, z = _deviations(whitening, covariance), np.abs(whitening.forward(mode[None])[0])
            t = 2 * z / (1 + np.sqrt(1 + 4 * z**2))
            yield weight, deviation * (1 - t**2) ** 2 / (1 + t**2)

    def _separate(self):
        """``((mode, log mass), covariance)`` of those that count and are masses of their own; none unless there are
        two."""
        found, kept = sorted(zip(self._laplace, self._covariances), key=lambda pair: -pair[0][1]), []
        for (mode, weight), covariance in found:
            apart = all(_distance(mode - other, covariance, of_other) > SEPARATE for (other, _), of_other in kept)
            if weight > found[0][0][1] - COUNTS and apart:
                kept.append(((mode, weight), covariance))
        return kept if len(kept) > 1 else []

    def narrowest(self):
        """Per whitened axis the smallest standard deviation of a mode that counts, (d,); ones unless there are modes
        that are ``SEPARATE``: to a single mass the whitening has been fitted, its bends included."""
        deviations = [_deviations(self.whitening, covariance) for _, covariance in self._separate()]
        return np.min(deviations, axis=0) if deviations else np.ones(self.dimension)

    def _whole(self, share):
        """``(edges, log_masses, error)`` by quadrature over the whole space, with more points, which reach farther,
        along the axes where more than ``share`` of the mass is in the outermost cells; a ValueError if that is not
        enough."""
        d, points = self.dimension, np.array(self._points(self.whitening))
        while True:
            edges, log_mass, z, error = self.quadrature(self.whitening, tuple(points))
            mass = np.exp(log_mass - log_mass.max())
            mass /= mass.sum()
            outer = np.array([_outermost(_along(mass, axis), ends) for axis, ends in enumerate(edges)])
            if outer.sum() <= share:
                return edges, log_mass, error
            more = np.where(outer > share / d, (FARTHER * points).astype(int), points)
            if more.prod() > MORE[d] * QUADRATURE[d] ** d:
                border, reach = min(1.0, outer.sum()), np.abs(z[outer.argmax()][[1, -2]]).max()
                raise ValueError(f"`log_density` has {border:.1e} of its mass more than {reach:.0f} scales away, more "
                                 f"than a tenth of tail={10 * share:.0e}: it is improper or its tails are too heavy "
                                 f"for the quadrature (its peak too narrow for its width); pass bounds=, a larger "
                                 f"tail=, or a parameter with lighter tails (a logarithm, for instance).")
            points = more

    def box(self, tail):
        """``(box, log_mass, outside)``: per whitened axis the interval that leaves ``tail / (2 d)`` of the mass on
        either side, up to a finite bound that is no farther away than its length; the log mass of the whole space in x;
        the fraction outside the box.

        ``error``: of the log mass, from its change from a grid with four points for five, and in the cells at an edge;
        ``order``: of the quadrature, where bounds may spoil it.
        ``unseen``: masses of modes outside the box, and what the quadrature errs by on narrow ones, both by Laplace's
        approximation, as a fraction. A ValueError where the quadrature does not settle: improper or with tails that no
        box holds.
        """
        d = self.dimension
        edges, log_mass, error = self._whole(tail / 10)
        highest = log_mass.max()
        mass = np.exp(log_mass - highest)
        total = mass.sum()
        box, share, inside = [], tail / (2 * d), mass / total
        for axis in range(d):
            marginal = _along(mass, axis) / total
            cumulative = np.concatenate([[0.0], np.cumsum(marginal)])
            ends = edges[axis]
            low, high = _leaves(share, cumulative, ends), -_leaves(share, (1 - cumulative)[::-1], -ends[::-1])
            near = high - low
            whole = low - ends[0] <= near, ends[-1] - high <= near
            box.append((float(ends[0] if whole[0] else low), float(ends[-1] if whole[1] else high)))
            left, right = (0.0 if one else share for one in whole)
            with np.errstate(invalid="ignore", divide="ignore"):  # parts of the cells' masses that are inside
                part = (np.minimum(cumulative[1:], 1 - right) - np.maximum(cumulative[:-1], left)) / marginal
            inside = inside * np.nan_to_num(np.clip(part, 0, 1)).reshape([-1 if a == axis else 1 for a in range(d)])
        log_mass = float(highest + np.log(total)) + self.whitening.log_determinant
        low, high = np.array(box).T
        gaps = [np.maximum(low - z, z - high) / (high - low)
                for z in (self.whitening.forward(x[None])[0] for x, _ in self._laplace)]
        beyond = sum(_exp(weight - log_mass) for gap, (_, weight) in zip(gaps, self._laplace) if gap.max() > ASIDE)
        # of a Gaussian the midpoint rule errs by 2 exp(-2 pi^2 / h^2), h the distance of its points in deviations
        missed = sum(_exp(weight - log_mass) * min(1.0, 2 * float(np.exp(-0.5 * (np.pi * width * mass.shape)**2).sum()))
                     for weight, width in self._widths(self.whitening))
        sums = [total]
        for share in (FEWER, FEWER**2) if self.bounded else (FEWER,):
            _, fewer, *_ = self.quadrature(self.whitening, tuple(int(share * n) for n in mass.shape))
            sums.append(np.exp(fewer - highest).sum())
        changes = np.abs(np.diff(np.log(sums))) + 1e-15
        # of second order where the density is cut, with such widths of cells; far smaller elsewhere, but where it has a
        # root or a pole at a bound
        self.order = 2.0 if len(changes) < 2 else float(np.clip(np.log(changes[1] / changes[0]) / -np.log(FEWER),
                                                                LEAST_ORDER, 2.0))
        self.error = float(changes[0]) / (FEWER**-self.order - 1) + error + ROUNDING * abs(float(highest))
        self.unseen = beyond + missed
        return box, log_mass, max(0.0, float(1 - inside.sum())) + beyond / (1 + beyond)

    def marginal(self, axis, values):
        """Log density of one parameter at ``values`` (n,), up to a constant: the others integrated over their support,
        on the whitened axes of an order in which that parameter comes first."""
        whitening, others = self.whitening, [a for a in range(self.dimension) if a != axis]
        order = np.array([axis, *others])
        root = np.linalg.cholesky((whitening.root @ whitening.root.T)[np.ix_(order, order)])
        mesh, stretch = np.zeros((1, 0)), np.zeros(1)
        for place, other in enumerate(others, 1):
            low, high = (self.bounds[other] - whitening.mean[other]) / root[place, place]
            covered = (low, high) if self.bounded else (-np.inf, np.inf)
            _, z, widths = _covering(*covered, QUADRATURE[self.dimension])
            mesh = np.hstack([np.repeat(mesh, len(z), axis=0), np.tile(z, len(mesh))[:, None]])
            stretch = (stretch[:, None] + widths).ravel()
        out = np.empty(len(values))
        for k, value in enumerate(values):
            z = np.hstack([np.full((len(mesh), 1), (value - whitening.mean[axis]) / root[0, 0]), mesh])
            x = np.empty_like(z)
            x[:, order] = whitening.mean[order] + z @ root.T
            log_mass = self.values(x) + stretch
            highest = log_mass.max()
            out[k] = highest + np.log(np.exp(log_mass - highest).sum()) if highest > -np.inf else -np.inf
        return out


def _deviations(whitening, covariance):
    """Standard deviations along the whitened axes."""
    inverse = np.linalg.inv(whitening.root)
    return np.sqrt(np.diag(inverse @ covariance @ inverse.T))


def _exp(value):
    """Finite, whatever the number."""
    return math.exp(min(value, 700.0))


def _distance(vector, *covariances):
    """Length in standard deviations of the Gaussian that is the narrowest along it."""
    return math.sqrt(max(vector @ np.linalg.solve(covariance, vector) for covariance in covariances))


def _leaves(share, cumulative, ends):
    """Where an increasing cumulative mass, known at ``ends``, reaches ``share``: linear in its logarithm, in itself
    where it starts from (almost) nothing. The outermost ends may be at infinity."""
    cumulative, ends = (array[1 if np.isinf(ends[0]) else 0:-1 if np.isinf(ends[-1]) else None]
                        for array in (cumulative, ends))
    k = int(np.clip(np.searchsorted(cumulative, share), 1, len(ends) - 1))
    a, b = cumulative[k - 1], cumulative[k]
    part = np.log(share / a) / np.log(b / a) if b > a > 1e-3 * share else (share - a) / max(b - a, 1e-300)
    return ends[k - 1] + min(max(part, 0.0), 1.0) * (ends[k] - ends[k - 1])


def _covering(low, high, n):
    """Edges, centres and log widths of n cells that cover an interval, infinite or not, finest near zero."""
    unit, t = np.linspace(0, 1, n + 1), (np.arange(n) + 0.5) / n
    if np.isfinite([low, high]).all() and high - low > 2 * FAR:  # z = sinh s: bounds far beyond the mass
        low, high = np.arcsinh([low, high])
        step, centres = (high - low) / n, low + (high - low) * t
        return np.sinh(low + (high - low) * unit), np.sinh(centres), np.log(step * np.cosh(centres))
    if np.isfinite([low, high]).all():
        return low + (high - low) * unit, low + (high - low) * t, np.full(n, np.log((high - low) / n))
    if np.isinf([low, high]).all():
        unit, t = 2 * unit[1:-1] - 1, 2 * t - 1
        edges = np.concatenate([[-np.inf], unit / (1 - unit**2), [np.inf]])
        return edges, t / (1 - t**2), np.log((1 + t**2) / (1 - t**2) ** 2 * (2 / n))
    if np.isinf(low):  # mirrored
        edges, centres, width = _covering(-high, np.inf, n)
        return -edges[::-1], -centres[::-1], width[::-1]
    edges = np.concatenate([low + unit[:-1] / (1 - unit[:-1]) ** 2, [np.inf]])
    return edges, low + t / (1 - t) ** 2, np.log((1 + t) / (1 - t) ** 3 / n)


def _along(mass, axis):
    """Masses on a product grid, summed over the other axes."""
    return mass.sum(axis=tuple(a for a in range(mass.ndim) if a != axis))


def _outermost(masses, ends):
    """Those of the last two cells at an infinite end."""
    return (masses[:2].sum() if np.isinf(ends[0]) else 0.0) + (masses[-2:].sum() if np.isinf(ends[-1]) else 0.0)


def _moments(mass, axes):
    """Mean and covariance of masses on a product grid."""
    d = mass.ndim
    marginals = [_along(mass, axis) for axis in range(d)]
    mean = np.array([m @ z for m, z in zip(marginals, axes)])
    covariance = np.empty((d, d))
    for i in range(d):
        covariance[i, i] = marginals[i] @ (axes[i] - mean[i]) ** 2
        for j in range(i):
            pair = mass.sum(axis=tuple(a for a in range(d) if a not in (i, j)))
            covariance[i, j] = covariance[j, i] = (axes[j] - mean[j]) @ pair @ (axes[i] - mean[i])
    return mean, covariance
