"""The Monge-Ampère operator on a grid: log residual, linearisation, admissibility, map."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import work
from .kernels import monge_ampere_2d, monge_ampere_3d, monge_ampere_3d_monotone, stencil_2d, stencil_3d
from .linear.stencil import Stencil, no_drift
from .negative_norm import block_sums, gradient_size, without_mean
from .reductions import combine, log_ratio, logarithm, moments, weighted_square
from .superbases import LARGEST_WIDE, NARROW, WIDEST, SuperbaseFamily
from .threads import refuse_forked

OFFSETS_2D = np.array([(1, 0), (0, 1), (1, -1), (1, 1)], dtype=np.int64)
OFFSETS_3D = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (1, 1, 0), (1, 0, -1), (1, 0, 1),
                       (0, 1, -1), (0, 1, 1)], dtype=np.int64)

EXTENSION = (math.log(0.3), math.log(2.0))
"""Log residuals between which the extended operator is the logarithm itself."""
PLAIN = (-math.inf, math.inf)
LEAST_RATIO = math.exp(-2)
"""Of the centred determinant, where it may be negative, to the monotone one: the least that is believed."""

@dataclass
class Evaluation:
    """The operator at one potential: log residual, its mean and the RMS of the rest (NaN where a value is not finite),
    cells where the extension replaced it, linearisation if asked for.

    The arrays belong to whoever evaluates: ``MongeAmpere.evaluate(..., out=evaluation)`` writes them anew.
    """

    residual: np.ndarray
    weights: np.ndarray
    drift: np.ndarray
    mean: float = math.nan
    norm: float = math.nan
    extended: int = 0
    linearised: bool = False


class MongeAmpere:
    """``R(phi) = log det D2u + log nu(grad u) - log mu``, ``u = q + phi``, discretised on ``problem.grid``.

    Parameters
    ----------
    problem : TransportProblem
    scheme : {"monotone", "centred"}
        ``"monotone"``: log of the MA-LBR determinant of Benamou, Collino & Mirebeau (2016) on the 3x3 stencil, in 3D
        its counterpart on the 26 neighbours (after Mirebeau 2015): an infimum of linear degenerate-elliptic operators,
        concave, monotone, its linearisation (up to the lower-order term) an M-matrix. Exact for Hessians (in index
        space) of condition number up to 5.8 in any direction, 4 in 3D. ``"centred"``:
        the ordinary 9-point (19-point) differences. Both second order.
    radius : int
        Of the superbases of the monotone operator in 2D, 1 to 5: exact for Hessians of condition number up to 5.8 (1),
        10 (2), 20 (3), 50 (4), 100 (5) in any direction.

    Notes
    -----
    ``log det M = min over D of tr(D M) - log det D - d`` is an infimum of linear functions, and Newton's method is
    Howard's policy iteration with the policy ``D = M^-1``. Where M is not positive definite, or the log residual lies
    outside ``EXTENSION``, the *extended* operator takes the policy of the nearest matrix with bounded eigenvalues and a
    bounded determinant: finite values and non-negative weights for every potential, so that Newton needs no damping for
    the sake of admissibility. Every cell of a zero of it is inside the bounds, where it is R itself.
    """

    def __init__(self, problem, scheme="monotone", radius=1):
        refuse_forked()
        problem.refuse_zeros()
        if radius not in range(1, WIDEST + 1) or (radius > 1 and (scheme != "monotone" or problem.ndim != 2)):
            raise ValueError(f"`radius` must be 1 to {WIDEST} for the monotone scheme in 2D and 1 otherwise, "
                             f"got {radius!r}.")
        self.problem = problem
        self.grid = grid = problem.grid
        self.scheme = scheme
        self.quadratic = problem.slopes * grid.spacing**2
        self.log_cell = 2 * float(np.log(grid.spacing).sum())
        self.natural_time = float(np.max(problem.slopes * grid.lengths**2))
        shift = self.log_cell
        if problem.target.is_uniform:
            shift -= problem.target.log_density_by_component(np.zeros((grid.ndim, 1)), False)[0][0]
        # with a constant: the log of what the determinant is compared with, but for a target that varies
        self.log_source, self.log_size = logarithm(problem.source_values, shift)
        self.averages_target = problem.target.is_rough()
        self.work = 0.0  # of all evaluations, in applications of the linearised operator
        self.evaluation_work = work.EVALUATION[grid.ndim]
        if not problem.target.is_uniform:
            self.evaluation_work += work.AVERAGE[grid.ndim] if self.averages_target else work.TARGET[grid.ndim]
        self.kernels = monge_ampere_2d if grid.ndim == 2 else monge_ampere_3d
        self.offsets = OFFSETS_2D if grid.ndim == 2 else OFFSETS_3D
        self.determinants = self.kernels
        if grid.ndim == 3 and scheme == "monotone":
            self.determinants, self.offsets = monge_ampere_3d_monotone, monge_ampere_3d_monotone.OFFSETS
            self.evaluation_work += work.MONOTONE_3D
        self.radius = radius
        if radius > 1:
            self.determinants = SuperbaseFamily(radius, grid.periodic)
            self.offsets = self.determinants.offsets
            self.evaluation_work += work.SUPERBASE * len(self.determinants.bases)
        self.affine = [(problem.offsets[a] + problem.slopes[a] * (grid.centres(a) - grid.lower[a])).reshape(
            [-1 if b == a else 1 for b in range(grid.ndim)]) for a in range(grid.ndim)]
        self._padded = np.empty(tuple(n + 2 for n in grid.shape))
        self._checked = None, None  # the last potential that was, and what was found
        self._on_cells = hasattr(problem.target, "at_images")  # a density on cells, not a function
        if self._on_cells and not problem.target.is_uniform:
            self._density = np.empty(grid.shape)  # of the target, at the images of the cells
            self._moment = np.empty((grid.ndim, *grid.shape)) if self.averages_target else None

    def on(self, problem):
        """The same scheme for another problem."""
        return MongeAmpere(problem, self.scheme, self.radius)

    def wider(self, phi):
        """The scheme with the fewest superbases that resolve the Hessian at ``phi``; None if this one does, or the
        grid is too large."""
        if self.scheme != "monotone" or self.grid.ndim != 2 or self.grid.size > LARGEST_WIDE:
            return None
        found = None if self.checks(phi)[1] <= NARROW else self
        while found is not None and found.radius < WIDEST:
            found = MongeAmpere(self.problem, self.scheme, found.radius + 1)
            if found.checks(phi)[1] <= NARROW:
                break
        return None if found is self else found

    def _pad(self, phi):
        (stencil_2d if phi.ndim == 2 else stencil_3d).pad(np.ascontiguousarray(phi), self.grid.periodic, self._padded)
        return self._padded

    def map(self, phi):
        """``grad u`` at the cell centres, (d, *shape); beyond a periodic box where it leads there."""
        return self._map(self._pad(phi))

    def displacement(self, phi):
        """``grad u - x`` at the cell centres, (d, *shape)."""
        displacement = np.empty((self.grid.ndim, *self.grid.shape))
        self.kernels.displacement(self._pad(phi), self.grid.spacing, displacement)
        for axis, affine in enumerate(self.affine):
            stretch = affine - self.grid.centres(axis).reshape(affine.shape)
            if stretch.any():
                displacement[axis] += stretch
        return displacement

    def cost(self, displacement):
        """Integral of ``|displacement|^2`` over the source: the midpoint sum."""
        return self.grid.cell_volume * weighted_square(displacement, self.problem.source_values)

    def _map(self, padded):
        image = np.empty((self.grid.ndim, *self.grid.shape))
        self.kernels.displacement(padded, self.grid.spacing, image)
        for axis, affine in enumerate(self.affine):
            image[axis] += affine
        return image

    def _determinant(self, padded, log_image, density, bounds, evaluation, linearise):
        """Writes ``log(det density) - log_image``, extended outside ``bounds``, and the weights;
        counts the extended cells."""
        count = np.zeros(self.grid.shape[0], dtype=np.int64)
        out = evaluation.residual
        determinant, extension = (
            (self.determinants.monotone, self.determinants.monotone_extension) if self.scheme == "monotone"
            else (self.determinants.centred, self.determinants.centred_extension))
        determinant(padded, self.quadratic, linearise, evaluation.weights, out, count)
        low, high = bounds  # inadmissible cells are dealt with below
        evaluation.mean, evaluation.norm, outside = log_ratio(out, density, log_image, low, high)
        evaluation.extended, evaluation.linearised = 0, linearise
        if count.any() or outside:
            if density is not None:
                with np.errstate(divide="ignore", invalid="ignore"):  # averages below the last digit of their sums
                    logs = logarithm(density, 0.0)[0]
                combine(-1.0, logs, 1.0, log_image)
                log_image = logs
            extension(padded, self.quadratic, log_image, low, high, linearise, evaluation.weights, out, count)
            evaluation.extended = int(count.sum())
            evaluation.mean, evaluation.norm = moments(out)

    def log_determinant(self, phi):
        """``log det D2u``, NaN where ``u`` is inadmissible."""
        evaluation = self.new_evaluation(linearise=False)
        self._determinant(self._pad(phi), np.full(self.grid.shape, self.log_cell), None, PLAIN, evaluation, False)
        return evaluation.residual

    def _target(self, padded, drift, linearise):
        """``nu`` at (or averaged over) the image of every cell, or ``log nu`` where it is a function; None where it is
        uniform. Writes the derivatives of its log to ``drift``, and to ``_moment`` those of an average."""
        problem, grid = self.problem, self.grid
        target, h = problem.target, grid.spacing
        if target.is_uniform:
            return None
        if self._on_cells:
            arguments = (padded, problem.offsets, problem.slopes * h, 1 / h, linearise, self._density, drift)
            if self.averages_target:
                target.over_images(*arguments, self._moment)
            else:
                target.at_images(*arguments)
            return self._density
        value, slope = target.log_density_by_component(self._map(padded).reshape(grid.ndim, -1), linearise)
        if linearise:
            for axis, spacing in enumerate(h):
                np.divide(slope[axis].reshape(grid.shape), 2 * spacing, out=drift[axis])
        return value.reshape(grid.shape)

    def new_evaluation(self, linearise=True):
        """Room for :meth:`evaluate`; without a linearisation if so asked."""
        shape = self.grid.shape
        empty = (0,) * len(shape)
        weights = np.empty((len(self.offsets), *(shape if linearise else empty)))
        uniform = self.problem.target.is_uniform
        return Evaluation(np.empty(shape), weights,
                          no_drift(shape) if uniform else np.empty((len(shape), *weights.shape[1:])))

    def evaluate(self, phi, extend=False, linearise=True, out=None):
        """The log residual at ``phi`` and, if asked for, its linearisation.

        With ``extend``, True or a pair of log residuals instead of ``EXTENSION``, outside the admissible set too;
        without, the residual is NaN there. ``out``: an evaluation to write to.
        """
        evaluation = self.new_evaluation(linearise) if out is None else out
        self.work += self.evaluation_work
        padded = self._pad(phi)
        value, image = self._target(padded, evaluation.drift, linearise), self.log_source
        if value is not None and not self._on_cells:
            image, value = np.subtract(image, value, out=value), None
        bounds = (EXTENSION if extend else PLAIN) if isinstance(extend, bool) else extend
        self._determinant(padded, image, value, bounds, evaluation, linearise)
        if linearise and self.averages_target:
            combine(1.0, evaluation.weights[:self.grid.ndim], 1.0, self._moment)
        return evaluation

    def algebraic_error(self, evaluation):
        """An estimate of the algebraic error of the map, L2 under the source, from the residual where ``evaluation``
        was made.

        The equation multiplied by the source is in divergence form, ``div(A grad w) = mu (R - c)`` for the correction
        w, c the mean of R under the source, and ``A = mu (D2u)^-1`` (the cofactors, for a uniform target) is that of
        the quadratic where ``D2u`` is. What residuals of the size a, rough as they are, leave after a Newton step is
        smooth and of the size a^2: it moves the map more than they do, and no other norm of theirs would tell.
        """
        self.work += work.RESIDUAL
        source = self.problem.source_values
        sums = block_sums(evaluation.residual, evaluation.mean, source, self.grid)
        return gradient_size(without_mean(sums), self.grid, self.problem.slopes)

    def inconsistency(self, phi):
        """An estimate of the error of the map, L2 under the source, because the stencil is too narrow for the Hessian
        of an admissible ``phi``, which no finer grid reduces; 0 where it is wide enough.

        As :meth:`algebraic_error` of what the centred log determinant differs by where the monotone one sees the
        Hessian through fewer offsets than it has entries.
        """
        if self.scheme != "monotone" or not self.checks(phi)[1]:
            return 0.0
        shape, padded, count = self.grid.shape, self._pad(phi), np.empty(self.grid.shape[0], dtype=np.int64)
        weights, own, centred = np.empty((len(self.offsets), *shape)), np.empty(shape), np.empty(shape)
        self.determinants.monotone(padded, self.quadratic, True, weights, own, count)
        self.kernels.centred(padded, self.quadratic, False, np.empty((0,) * weights.ndim), centred, count)
        if self.radius == 1 and len(shape) == 2:  # there a Hessian along the axes needs no more than these
            narrow = (weights[0] <= 0) | (weights[1] <= 0)
        else:
            narrow = np.count_nonzero(weights > 0, axis=0) < len(shape) * (len(shape) + 1) // 2
        difference = np.zeros(shape)
        difference[narrow] = np.log(np.maximum(centred[narrow] / own[narrow], LEAST_RATIO))
        sums = block_sums(difference, 0.0, self.problem.source_values, self.grid)
        return gradient_size(without_mean(sums), self.grid, self.problem.slopes)

    @staticmethod
    def mean_free_rms(field):
        """RMS of ``field`` without its mean; NaN where a value is not finite."""
        return moments(field)[1]

    @staticmethod
    def agreed(size):
        """A size that was found from this process's part of the arrays, for the whole: here they are the whole."""
        return size

    def residual(self, phi):
        """The log residual, (*shape); NaN where ``u`` is inadmissible. Its mean is the drift."""
        return self.evaluate(phi, linearise=False).residual

    def stencil(self, evaluation, shift=0.0):
        """The :class:`Stencil` of ``shift - dR/dphi`` where ``evaluation`` was made."""
        return Stencil(evaluation.weights, evaluation.drift, self.offsets, self.grid.periodic, shift,
                       self.problem.source_values)

    def linearise(self, phi, shift=0.0):
        """The :class:`Stencil` of ``shift - dR/dphi`` at an admissible ``phi``."""
        return self.stencil(self.evaluate(phi), shift)

    def checks(self, phi):
        """``(margin, narrow mass)``.

        The smallest second difference (monotone) or Hessian eigenvalue (centred) of ``u`` relative to that of ``q``,
        and the source mass where the 3x3 stencil is too narrow for the Hessian, so that the log determinant is
        inconsistent: seen by an axis that carries no weight (a superbase vector on its bound). Centred differences do
        not see it: 0.
        """
        if phi is not self._checked[0]:
            margin, narrow = np.empty(self.grid.shape[0]), np.zeros(self.grid.shape[0])
            if self.scheme == "monotone":
                self.determinants.monotone_checks(self._pad(phi), self.quadratic, self.problem.source_values, margin,
                                                  narrow)
            else:
                self.kernels.centred_margin(self._pad(phi), self.quadratic, margin)
            self._checked = phi, (float(margin.min()), float(narrow.sum()) * self.grid.cell_volume)
        return self._checked[1]

    def margin(self, phi):
        """The margin of :meth:`checks`; affine in ``phi``:
        ``margin(t phi) = 1 - t (1 - margin(phi))`` for ``t >= 0``."""
        return self.checks(phi)[0]
