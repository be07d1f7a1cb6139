"""Mirror descent with ratios learnt from samples: the training behind :mod:`pmapde.generative`."""
from __future__ import annotations

import math
import time

import numpy as np

from .density import GridDensity
from .integrators import BackwardEuler
from .linear.geometric import GeometricMultigrid
from .linear.solver import Automatic
from .mirror import mirror_descent, step_size
from .monge_ampere import MongeAmpere
from .status import Status
from .threads import serial_blas
from .transport import PiecewiseAffineMap

PATIENCE = 3
"""Steps without a better held-out likelihood after which training stops."""
GAIN = 1e-4
"""Mean log-likelihood that counts as better."""
STEP_TOLERANCE = 1e-3
"""Algebraic error of an implicit step relative to how far it moves."""
TRIALS = ((GeometricMultigrid(), 1.0), (GeometricMultigrid(), 0.125), (Automatic(), 0.125), (Automatic(), 0.015625))
"""Linear solver and share of the step, tried in turn. Steps that are limited in length suit plain multigrid, which is
many times as fast here in 3D as what the automatic choice goes over to."""


class Training:
    """Mirror descent with learnt ratios on one problem, whose source is a place holder."""

    def __init__(self, problem, reference, method, settings, deadline=math.inf):
        self.deadline = deadline
        self.problem, self.reference, self.method, self.settings = problem, reference, method, settings
        self.operator = MongeAmpere(problem, "monotone" if problem.ndim == 2 else "centred")
        self.quadratic = problem.quadratic(problem.grid.cell_centres())

    def run(self, Z, steps, rng, validation=None, book=None, notes=()):
        """``steps`` steps on samples ``Z``, and what the ratio at the last takes the data's density for.

        ``notes`` of another training: penalties are looked for around those chosen there, step by step.
        """
        state, found = State(self), [note.get("penalty") for note in notes]
        if book:
            book.start(state.phi, np.log(state.rho / book.mu))
        learner = self.method.prepare(Z, self.problem.grid, self.settings["background"], self.deadline)
        for k in range(steps):
            if validation is not None and state.judged(validation):
                break
            if time.perf_counter() > self.deadline:
                state.status = Status.MAX_SECONDS
                break
            source, note = self._source(learner, state, rng, found[k] if k < len(found) else None)
            done = state.step(k, source, learner)
            if done or validation is not None:  # what was found is of use to the other training
                state.notes.append(note)
            if not done:
                break
            if book:
                book.add(sum(state.etas), state.etas[-1], state.phi, state.log_mass + np.log(state.rho / book.mu))
        else:
            if validation is not None:
                state.judged(validation)
        if validation is None:
            last = min(len(state.etas), len(found) - 1)
            state.source, note = self._source(learner, state, rng, found[last] if found else None)
            state.notes.append(note)
            if time.perf_counter() > self.deadline:
                state.status = Status.MAX_SECONDS
        return state

    def _source(self, learner, state, rng, penalty=None):
        """The data's density as the ratio learnt at the state has it, and how the ratio was regularised."""
        generated = state.generated(learner.generated, rng) if learner.generated else None
        model = GridDensity(state.rho, self.problem.grid, points=True)
        with serial_blas():  # its threads gain little on systems this small, and stall on a busy machine
            log_source, note = learner.log_source(model, generated, penalty)
        return self.mixed(log_source), note

    def mixed(self, log_density):
        """The normalised density, with the background."""
        grid, share = self.problem.grid, self.settings["background"]
        density = np.exp(log_density - log_density.max())
        density /= density.sum() * grid.cell_volume
        return (1 - share) * density + share / grid.lengths.prod()


class State:
    """The iterate: displacement potential ``phi``, model density ``rho`` with the log of its mass before it was
    normalised, and the records of the steps."""

    def __init__(self, training):
        self.training, self.problem = training, training.problem
        self.phi = np.zeros(self.problem.grid.shape)
        log_model = training.operator.evaluate(self.phi).residual + np.log(self.problem.source_values)
        self._set(log_model)
        self.etas, self.notes, self.held, self.status = [], [], [], Status.FINAL_TIME

    def _set(self, log_model):
        highest = log_model.max()
        density = np.exp(log_model - highest)
        mass = density.sum() * self.problem.grid.cell_volume
        self.rho, self.log_mass = density / mass, float(highest + np.log(mass))

    def judged(self, validation):
        """Book the held-out likelihoods; whether their mean has not been better for a while."""
        self.held.append(GridDensity(self.rho, self.problem.grid, points=True).log_density(validation))
        return len(self.held) - 1 - self._first_best() >= PATIENCE

    @property
    def scores(self):
        return [float(values.mean()) for values in self.held]

    def _first_best(self):
        best = 0
        for k, score in enumerate(self.scores):
            if score > self.scores[best] + GAIN:
                best = k
        return best

    def chosen(self):
        """The last state not worse than the best by more than one standard error: the likelihood is flat towards the
        end, where the masses of far parts and other low moments are still on their way to those of the data."""
        best = self.held[self._first_best()]
        error = 1 / math.sqrt(len(best))
        return max(k for k, values in enumerate(self.held)
                   if (best - values).mean() <= error * (best - values).std())

    def generated(self, n, rng):
        """Samples of the model: noise under the inverse of its map."""
        problem = self.problem
        noise = self.training.reference.draw(n, rng, problem.target_values)
        displacement = self.training.operator.displacement(self.phi)
        transport_map = PiecewiseAffineMap(problem.grid, problem.target_grid, displacement)
        return transport_map.inverse(np.ascontiguousarray(noise.T))[0].T

    def step(self, k, source, learner):
        """One step against a source; False, with the status, if it failed however short."""
        settings, problem = self.training.settings, self.problem.with_source(source)
        modes = None if settings["scheme"] == "implicit" else learner.modes
        for linear, share in TRIALS if settings["scheme"] == "implicit" else TRIALS[:1]:
            def schedule(_, limit, share=share):
                return share * step_size(settings["schedule"], k, limit)
            run = mirror_descent(problem, schedule, 1, scheme=settings["scheme"],
                                 start=self.phi + self.training.quadratic, modes=modes, on_convexity_loss="shorten",
                                 ledger=None, tolerance=STEP_TOLERANCE,
                                 method=BackwardEuler(scheme=self.training.operator.scheme, linear=linear,
                                                      max_iterations=25),
                                 max_seconds=max(0.0, self.training.deadline - time.perf_counter()))
            if run.success:
                self.phi = run.displacement_potential
                self.etas.append(float(run.etas[0]))
                self._set(run.log_ratio + np.log(source))
                return True
            if run.status is Status.MAX_SECONDS:
                break
        self.status = run.status
        return False
