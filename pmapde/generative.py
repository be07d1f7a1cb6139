"""Generative modelling: the inverse Brenier map of a reference, learnt from samples by mirror descent."""
from __future__ import annotations

import importlib
import inspect
import math
import sys
import time
import warnings
from numbers import Real

import numpy as np
from scipy.stats import multivariate_t

from . import schedules
from .density import GridDensity
from .ledger import Bookkeeper
from .marginals import Coordinates, long_tailed, straightened
from .problem import TransportProblem
from .ratios import DensityRatio, LogisticRatio, ScoreRatio, kernel_estimate
from .samples import Reference, checked_columns, checked_samples, sample_box, warn_of_thin_parts, whitening
from .solution import StencilWarning
from .solver import solve
from .status import SolverError, Status
from .training import Training

LEAST = {2: 40, 3: 80}
"""Samples without which nothing is fitted."""
CELLS = {2: 128, 3: 32}
FINEST = 128
"""Cells per axis up to which the last solve divides those of the training: samples are drawn through its map."""
HELD_OUT, TRAINING = 0.4, 0.75
"""Of the time allowed: when the training on a part of the data has to end, and that on all; the rest is for the last
map."""
TAIL_FREEDOM = 3
"""Degrees of freedom of what stands for the data outside the box."""
RATIOS = {"density": DensityRatio, "logistic": LogisticRatio, "score": ScoreRatio}


class BrenierGenerator:
    """Samples like those given, as the image of noise under a gradient of a convex function.

    With the data's density mu as source and the reference nu as target, the model is ``rho_k = (grad u_k^*)_# nu`` and
    training is mirror descent, ``u_{k+1} = u_k + eta_k log(rho / mu)``, in whitened coordinates (Deb & Liang, arXiv
    2504.09279). The ratio is learnt anew in every step, see :mod:`pmapde.ratios`: ``D_k``, an estimate of
    ``log(rho_k / mu)``. As the model's density is known on the grid, this says what the data's is taken to be,
    ``mu_k = rho_k exp(-D_k)`` (mixed with ``background`` of uniform mass, and normalised), and the step is

    * explicit: ``u_{k+1} = u_k + eta_k log(rho_k / mu_k)``, that is ``u_k + eta_k D_k``; of the ratio only the modes
      the splines resolve are used, so that the step is limited by their spacing and not by the grid's;
    * implicit: ``u_{k+1} = u_k + eta_k log(rho_{k+1} / mu_k)``: implicit in the model's density, which is computed,
      with the data entering through the ratio learnt at ``rho_k``. Stable for every step; for ``eta -> infinity`` the
      model becomes ``mu_k``, and further steps boost it by what the next ratio still finds.

    The number of steps is chosen on held-out samples: the last one whose mean log-likelihood is within one standard
    error of the best. The model is then trained again from the start, on all samples, for that many, with penalties
    looked for around those of the first training. What the ratio learnt at the end takes the data's density for,
    ``mu_K``, is the model that is delivered: a last step of infinite length, in both schemes, which neither the
    held-out samples have judged nor the ledger books. With ``"density"`` it is the kernel estimate.

    Parameters
    ----------
    ratio : {"logistic", "density", "score"} or DensityRatio, LogisticRatio, ScoreRatio
    reference : {"gaussian", "uniform"}, LogDensity or GridDensity
        The noise, in whitened coordinates; the first three on the box of the data, the Gaussian to five deviations.
    scheme : {"implicit", "explicit"}
    schedule : float or callable, optional
        ``(k, limit) -> eta_k``, see :mod:`pmapde.schedules`; default ``constant(100)`` implicitly, ``automatic()``
        explicitly.
    max_iterations : int, optional
        Default 9 implicitly, 200 explicitly.
    validation_fraction : float
        Of the samples held out to choose the number of steps; 0: no early stopping, all of ``max_iterations``.
    cells : int, optional
        Grid cells per axis (default 128 in 2D, 32 in 3D).
    background : float
        Uniform mass mixed into the data's density: bounds its contrast.
    margin : float
        Room around the data, in widths of theirs.
    tail_mass : float
        Share of the samples that may be left outside the box, see :func:`pmapde.samples.sample_box`.
    marginals : {"auto", "affine"}
        Columns with long tails (1.4 times the range of as many normal samples) are brought near the normal one by one
        before they are whitened, see :class:`pmapde.marginals.JohnsonSU`; or never.
    ledger : {"densities", "full", None}
        Book-keeping of the last training against a fixed density: ``ledger_density`` or a kernel estimate of the data.
        ``"full"`` has Bregman divergences and the regret identity, with ``ratio_error`` its error term.
    ledger_density : callable, optional
        The data's density, known for toys, at points (n, d), unnormalised.
    max_seconds : float, optional
        Wall time of :meth:`fit`: 0.4 of it for the training that chooses penalties and the number of steps on a part of
        the data, up to 0.75 for that on all, which both end with what they have (``status_`` is ``MAX_SECONDS``), the
        rest for the last map, without which there is nothing. A step over, a ratio's fit for one penalty say; what is
        compiled on first use counts.
    random_state : int or numpy.random.Generator, optional
        Fixes the split and the samples generated in training; those of :meth:`sample` its own ``rng``.

    Attributes
    ----------
    solution_ : Solution
        Of the transport between the model's density and the reference: map, inverse, evidence.
    grid_ : Grid
        Of the map and the density: the box, in whitened coordinates; in whole parts of the training's cells, up to 128
        per axis.
    density_ : GridDensity
        The model's density in whitened coordinates.
    whitening_ : Whitening or Coordinates
    tail_mass_ : float
        Mass of the data that may be outside the box, in expectation.
    n_iter_ : int
    etas_ : ndarray
        Step sizes of the last training.
    validation_scores_ : ndarray
        Held-out mean log-likelihood before every step of the first training, in the units of ``X``; empty without one.
    ratios_ : list of dict
        What the ratio's regularisation was chosen to be, per step; and for the last ratio.
    ledger_ : Ledger or None
    status_ : Status
        ``FINAL_TIME``, or why training ended before.
    n_features_in_ : int

    Raises
    ------
    ValueError, TypeError
        From :meth:`fit`, one sentence: too few samples, not finite, not 2D or 3D, constant columns, data on a line.

    Warns
    -----
    ResolutionWarning
        From :meth:`fit`, where a tenth of the samples lies within a slab of half a cell, or along curves or sheets much
        thinner than the knots of the splines are apart: they are smeared.
    RuntimeWarning
        Where a step of a training failed, and it ended there; ``status_`` says why.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> from pmapde import toys
    >>> X = toys.draw("ring", 500, np.random.default_rng(0))
    >>> generator = pmapde.BrenierGenerator("density", cells=32, max_iterations=3, random_state=0).fit(X)
    >>> Y = generator.sample(1000, np.random.default_rng(1))
    >>> bool(np.abs(generator.inverse_transform(generator.transform(Y)) - Y).max() < 1e-12)
    True
    """

    def __init__(self, ratio="logistic", *, reference="gaussian", scheme="implicit", schedule=None, max_iterations=None,
                 validation_fraction=0.2, cells=None, background=1e-3, margin=0.1, tail_mass=0.0, marginals="auto",
                 ledger="densities", ledger_density=None, max_seconds=None, random_state=None):
        self.ratio = ratio
        self.reference = reference
        self.scheme = scheme
        self.schedule = schedule
        self.max_iterations = max_iterations
        self.validation_fraction = validation_fraction
        self.cells = cells
        self.background = background
        self.margin = margin
        self.tail_mass = tail_mass
        self.marginals = marginals
        self.ledger = ledger
        self.ledger_density = ledger_density
        self.max_seconds = max_seconds
        self.random_state = random_state

    # the scikit-learn protocol, which needs no import of it

    @classmethod
    def _names(cls):
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep=True):
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params):
        """Set arguments of the constructor by name; returns self."""
        for name, value in params.items():
            if name not in self._names():
                raise ValueError(f"invalid parameter {name!r} for BrenierGenerator(); valid ones are "
                                 f"{', '.join(self._names())}.")
            setattr(self, name, value)
        return self

    def __repr__(self):
        defaults = {name: value.default for name, value in inspect.signature(type(self)).parameters.items()}
        shown = [f"{name}={value!r}" for name, value in self.get_params().items() if value is not defaults[name]]
        return f"BrenierGenerator({', '.join(shown)})"

    def __sklearn_is_fitted__(self):
        return hasattr(self, "solution_")

    def __sklearn_tags__(self):
        utils = sys.modules["sklearn.utils"]  # only scikit-learn asks
        return utils.Tags(estimator_type="density_estimator", target_tags=utils.TargetTags(required=False),
                          transformer_tags=utils.TransformerTags(), input_tags=utils.InputTags())

    # fitting

    def fit(self, X, y=None):
        """Learn from samples ``X`` (n, d); ``y`` is ignored. Returns self."""
        begin = time.perf_counter()
        X = checked_samples(X)
        X = checked_samples(X, LEAST[X.shape[1]])
        method, settings = self._checked(X.shape[1])
        coordinates = self._coordinates(X)
        Z = coordinates.forward(X)
        grid, inside, tail = sample_box(Z, settings["cells"], self.margin, self.tail_mass)
        reference = Reference(self.reference, grid)
        problem = TransportProblem(GridDensity(np.ones(grid.shape), grid), reference.density,
                                   target_grid=reference.grid, floor=1e-9)
        training = Training(problem, reference, method, settings, begin + HELD_OUT * settings["seconds"])
        X, Z = X[inside], Z[inside]
        warn_of_thin_parts(Z, grid, method.details(grid))
        rng = _generator(self.random_state, "random_state")
        held = int(self.validation_fraction * len(Z))
        steps, scores, notes, ends = settings["iterations"], [], (), []
        if held:
            order = _shuffled(Z, rng)
            first = training.run(Z[order[held:]], steps, rng, validation=Z[order[:held]])
            volume = coordinates.log_volume(X[order[:held]]).mean()
            steps, scores = first.chosen(), [score - volume for score in first.scores]
            notes, ends = first.notes, [first]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StencilWarning)  # what counts is the misplaced mass, which is checked
            book = self._book(training, coordinates, Z)
            training.deadline = begin + TRAINING * settings["seconds"]
            last = training.run(Z, steps, rng, book=book, notes=notes)
            ends.append(last)
            seconds = max(0.0, begin + settings["seconds"] - time.perf_counter())
            solution, reference = self._final(last, problem, seconds)
        if not solution.success:
            raise SolverError(solution.status, solution)
        self.n_features_in_ = X.shape[1]
        self.whitening_, self.grid_, self.tail_mass_ = coordinates, solution.problem.grid, tail
        self.solution_, self.density_ = solution, GridDensity(solution.problem.source_values, self.grid_, points=True)
        self.n_iter_, self.etas_ = len(last.etas), np.array(last.etas)
        self.ratios_, self.status_ = last.notes, _end(ends)
        self.validation_scores_ = np.array(scores)
        self.ledger_ = book.ledger if book else None
        self._reference = reference
        return self

    def _checked(self, d):
        """The method of the ratio and the settings of the training."""
        ratio = RATIOS[self.ratio]() if isinstance(self.ratio, str) and self.ratio in RATIOS else self.ratio
        if not isinstance(ratio, tuple(RATIOS.values())):
            raise ValueError(f"`ratio` must be 'density', 'logistic', 'score' or a DensityRatio, LogisticRatio or "
                             f"ScoreRatio, got {self.ratio!r}.")
        if self.scheme not in ("implicit", "explicit"):
            raise ValueError(f"`scheme` must be 'implicit' or 'explicit', got {self.scheme!r}.")
        if self.ledger not in ("densities", "full", None):
            raise ValueError(f"`ledger` must be 'densities', 'full' or None, got {self.ledger!r}.")
        if self.marginals not in ("auto", "affine"):
            raise ValueError(f"`marginals` must be 'auto' or 'affine', got {self.marginals!r}.")
        if not (self.ledger_density is None or callable(self.ledger_density)):
            raise ValueError(f"`ledger_density` must be a function of points (n, d), got {self.ledger_density!r}.")
        for name, low, high in (("validation_fraction", 0, 0.9), ("tail_mass", 0, 0.5), ("margin", 0, 10),
                                ("background", 1e-6, 0.5)):
            value = getattr(self, name)
            if not (isinstance(value, Real) and low <= value <= high):
                raise ValueError(f"`{name}` must be a number in [{low:g}, {high:g}], got {value!r}.")
        implicit = self.scheme == "implicit"
        cells = CELLS[d] if self.cells is None else self.cells
        iterations = (9 if implicit else 200) if self.max_iterations is None else self.max_iterations
        for name, value, least in (("cells", cells, 16), ("max_iterations", iterations, 1)):
            if not (isinstance(value, (int, np.integer)) and value >= least):
                raise ValueError(f"`{name}` must be a whole number >= {least}, got {value!r}.")
        schedule = self.schedule
        if schedule is None:
            schedule = schedules.constant(100.0) if implicit else schedules.automatic()
        elif not callable(schedule):
            if not isinstance(schedule, Real):
                raise ValueError(f"`schedule` must be a step size or a function (k, limit) of one, got {schedule!r}.")
            schedule = schedules.constant(schedule)
        seconds = math.inf if self.max_seconds is None else self.max_seconds
        if not (isinstance(seconds, Real) and seconds > 0):
            raise ValueError(f"`max_seconds` must be a positive time, got {self.max_seconds!r}.")
        return ratio, {"cells": cells, "iterations": iterations, "schedule": schedule, "scheme": self.scheme,
                       "background": self.background, "seconds": seconds}

    def _coordinates(self, X):
        checked_columns(X)
        columns = long_tailed(X) if self.marginals == "auto" else ()
        return Coordinates(columns, whitening(straightened(X, columns))) if any(columns) else whitening(X)

    def _final(self, state, problem, seconds):
        """The transport of the model's density to the reference, and the latter, on finer cells if there is room.

        In 3D the training's cells are about as wide as details of the data, and the map of the discrete equation would
        leave several per cent of the mass a cell off: so much that draws of a thin tube are farther from the data than
        fresh samples are. The density itself is smoother than that.
        """
        grid = problem.grid
        fine = grid.with_shape(tuple(n * max(1, FINEST // n) for n in grid.shape))
        reference = Reference(self.reference, fine)
        points = fine.cell_centres().reshape(grid.ndim, -1).T
        density = GridDensity(state.source, grid, points=True)
        values = np.exp(density.log_density(points)).reshape(fine.shape)
        problem = TransportProblem(GridDensity(values, fine, points=True), reference.density,
                                   target_grid=reference.grid, floor=1e-9)
        return solve(problem, max_seconds=seconds), reference  # nested iteration is faster than from what was reached

    def _book(self, training, coordinates, Z):
        if self.ledger is None:
            return None
        problem, grid = training.problem, training.problem.grid
        if self.ledger_density is None:
            values = kernel_estimate(Z, grid, self.background)[0]
        else:
            x = coordinates.backward(grid.cell_centres().reshape(grid.ndim, -1).T)
            values = np.asarray(self.ledger_density(x))
            if not (values.shape == (len(x),) and values.dtype.kind in "fiub" and np.isfinite(values).all()
                    and values.min() >= 0 and values.max() > 0):
                found = (f"from {values.min():g} to {values.max():g}" if values.shape == (len(x),)
                         and values.dtype.kind in "fiub" else f"shape {values.shape}, dtype {values.dtype}")
                raise ValueError(f"`ledger_density` must give finite numbers, zero or more and not all zero, of shape "
                                 f"{(len(x),)} for points of shape {x.shape}; got {found}.")
            values = (values * np.exp(coordinates.log_volume(x))).reshape(grid.shape)
            values = values / (values.sum() * grid.cell_volume)
            values = (1 - self.background) * values + self.background / grid.lengths.prod()
        return Bookkeeper(problem.with_source(values, "ledger_density"), training.operator.scheme, self.scheme,
                          maps=self.ledger == "full")

    # what it is good for

    def _check_fitted(self):
        if not self.__sklearn_is_fitted__():
            message = "this BrenierGenerator is not fitted yet; call fit(X) first."
            if "sklearn" in sys.modules:  # its own kind of ValueError, for whoever uses it
                raise importlib.import_module("sklearn.exceptions").NotFittedError(message)
            raise ValueError(message)

    def _fitted(self, points, name):
        self._check_fitted()
        points = checked_samples(points)
        if points.shape[1] != self.n_features_in_:
            raise ValueError(f"`{name}` has {points.shape[1]} features, but BrenierGenerator is expecting "
                             f"{self.n_features_in_} features as input.")
        return points

    def fit_transform(self, X, y=None):
        """The noise of the samples learnt from, (n, d): ``fit(X).transform(X)``."""
        return self.fit(X, y).transform(X)

    def transform(self, X):
        """Data to noise, (n, d) to (n, d): the Brenier map, after whitening.

        Beyond the box of the data it is continued affinely from the faces: a homeomorphism of the whole space.
        """
        X, problem = self._fitted(X, "X"), self.solution_.problem
        Z = self.whitening_.forward(X)
        return _beyond(self.solution_.map, Z, problem.grid, problem.slopes)

    def inverse_transform(self, Y):
        """Noise to data, exact inverse of :meth:`transform`."""
        Y = self._fitted(Y, "Y")
        problem = self.solution_.problem
        return self.whitening_.backward(_beyond(self.solution_.inverse_map, Y, problem.target_grid, 1 / problem.slopes))

    def sample(self, n=1, rng=None, *, sequence="independent"):
        """``n`` independent samples of the model, (n, d): noise, mapped. ``rng``: Generator, seed, or None.

        ``sequence="sobol"``: scrambled Sobol' noise instead. Each sample follows the model, together they are more
        evenly spread than independent ones: their means are nearer to the model's, and so is the whole cloud.
        """
        if not (isinstance(n, (int, np.integer)) and n >= 1):
            raise ValueError(f"`n` must be a whole number >= 1, got {n!r}.")
        self._check_fitted()
        noise = self._reference.draw(n, _generator(rng, "rng"), self.solution_.problem.target_values, sequence)
        return self.inverse_transform(noise)

    def score_samples(self, X):
        """Log-density of the model at ``X``, (n,), finite wherever squares are.

        ``(1 - t) rho + t s`` in whitened coordinates: ``rho`` is ``density_`` on the grid, interpolated (positive, mass
        exactly one); what :meth:`sample` draws follows it up to ``solution_.push_forward_error``. The mass ``t =
        tail_mass_`` that the data may have outside the box stands as a Student's t with three degrees of freedom,
        without which a single sample there had no likelihood at all. It is not in the draws.
        """
        X = self._fitted(X, "X")
        Z = self.whitening_.forward(X)
        inside = ((self.grid_.lower <= Z) & (self.grid_.lower + self.grid_.lengths >= Z)).all(axis=1)
        model = np.where(inside, self.density_.log_density(Z) + math.log1p(-self.tail_mass_), -math.inf)
        tail = multivariate_t(np.zeros(Z.shape[1]), df=TAIL_FREEDOM).logpdf(Z) + math.log(self.tail_mass_)
        return np.logaddexp(model, tail) - self.whitening_.log_volume(X)

    def score(self, X, y=None):
        """Mean log-density at ``X``."""
        return float(self.score_samples(X).mean())

    def summary(self):
        """The scalars as a dict that JSON can hold."""
        self._check_fitted()
        return {"ratio": repr(self.ratio), "scheme": self.scheme, "status": self.status_.name,
                "message": self.status_.value, "steps": self.n_iter_, "etas": self.etas_.tolist(),
                "regularisation": self.ratios_, "validation_scores": self.validation_scores_.tolist(),
                "tail_mass": self.tail_mass_, "box": [list(pair) for pair in self.grid_.box],
                "cells": list(self.grid_.shape), "push_forward_error": self.solution_.push_forward_error,
                "folded_mass": self.solution_.folded_mass, "narrow_mass": self.solution_.narrow_mass,
                "w2_to_reference": self.solution_.w2}


def _shuffled(Z, rng):
    """A permutation of the rows; equal ones stay together, so that few are on both sides of a split."""
    _, groups = np.unique(Z, axis=0, return_inverse=True)
    groups = groups.ravel()
    return np.argsort(rng.permutation(groups.max() + 1)[groups], kind="stable")


def _end(states):
    """The status of trainings, with a warning where a step failed: time that is up is no surprise."""
    early = [state for state in states if state.status is not Status.FINAL_TIME]
    failed = [state for state in early if state.status is not Status.MAX_SECONDS]
    if failed:
        warnings.warn(f"step {len(failed[0].etas) + 1} of a training failed, however short ({failed[0].status.name}): "
                      f"the model is that of the ratio learnt before it, look at `validation_scores_`; a smaller "
                      f"`schedule` or more `background` may get further.", RuntimeWarning, stacklevel=3)
    return (failed or early or states)[0].status


def _generator(seed, name):
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a numpy.random.Generator, a seed >= 0, or None, got {seed!r}.") from None


def _beyond(function, points, grid, slopes):
    """A map of a box onto a box continued affinely outside."""
    inside = np.clip(points, grid.lower, grid.lower + grid.lengths)
    return function(inside) + slopes * (points - inside)
