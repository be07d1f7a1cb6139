"""Linearised optimal transport: densities as vectors, through their maps from one reference."""
from __future__ import annotations

import numpy as np

from .problem import TransportProblem
from .solver import solve
from .status import SolverError
from .transport import PiecewiseAffineMap


class LinearEmbedding:
    """Densities as displacements of one reference density, in the Hilbert space L2(reference).

    ``density -> (T - id) sqrt(reference)``, ``T`` the Brenier map of the reference to the density (Wang, Slepcev, Basu,
    Ozolek & Rohde 2013, Int. J. Comput. Vis. 101). The Euclidean distance of two vectors is the linearised distance
    ``|T_1 - T_2|`` in L2(reference), at least ``W2`` of the two, equal to it for the reference itself, translations and
    scalings; so that means, principal components and any linear method apply to densities. The protocol is that of
    scikit-learn's transformers, without depending on it.

    Parameters
    ----------
    reference : array_like, GridDensity or LogDensity
    grid, target_grid : Grid, optional
        Of the reference and of all the densities, as in :class:`TransportProblem`.
    floor : float, optional
        As in :class:`TransportProblem`.
    threads : int, optional

    Attributes
    ----------
    solutions_ : list of Solution
        Of the last ``transform``.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> x = (np.arange(32) + 0.5) / 32
    >>> bump = lambda at: 0.1 + np.exp(-((x[:, None] - at)**2 + (x - 0.5)**2) / 0.02)
    >>> vectors = pmapde.LinearEmbedding(bump(0.5)).transform([bump(0.5), bump(0.4), bump(0.6)])
    >>> vectors.shape, bool(np.linalg.norm(vectors[1] - vectors[2]) > 1.9 * np.linalg.norm(vectors[1]))
    ((3, 2048), True)
    """

    def __init__(self, reference, *, grid=None, target_grid=None, floor=None, threads=None):
        self.reference, self.grid, self.target_grid = reference, grid, target_grid
        self.floor, self.threads = floor, threads

    def get_params(self, deep=True):
        """The arguments of the constructor, by name."""
        return {name: getattr(self, name) for name in ("reference", "grid", "target_grid", "floor", "threads")}

    def set_params(self, **values):
        """Change arguments of the constructor; returns the object."""
        for name, value in values.items():
            if name not in self.get_params():
                raise ValueError(f"LinearEmbedding has no parameter {name!r}; it has {sorted(self.get_params())}.")
            setattr(self, name, value)
        return self

    def fit(self, densities=None, y=None):
        """Nothing is learnt; the reference is checked."""
        self._problem(self.reference)
        return self

    def transform(self, densities):
        """One row of ``d * cells`` numbers a density. A SolverError if one of the problems is not solved."""
        self.solutions_ = [solve(self._problem(density), threads=self.threads) for density in densities]
        for solution in self.solutions_:
            if not solution.success:
                raise SolverError(solution.status, solution)
        return np.array([(solution.displacement * self._weights(solution.problem)).ravel()
                         for solution in self.solutions_])

    def fit_transform(self, densities, y=None):
        """``fit`` and ``transform``."""
        return self.fit(densities).transform(densities)

    def inverse_transform(self, vectors):
        """Densities on the target grid, (n, *shape), for rows of the embedding space: ``(id + v)_# reference``.

        Linear combinations of maps with weights that sum to one and are not negative are maps of the same kind;
        elsewhere (far along a principal component) the result may fold, and its mass still adds up. Zero weights of
        the reference leave the identity there.
        """
        problem = self._problem(self.reference)
        grid, target_grid = problem.grid, problem.target_grid
        vectors = np.atleast_2d(np.asarray(vectors, float))
        if vectors.shape[1:] != (grid.ndim * grid.size,) or not np.isfinite(vectors).all():
            raise ValueError(f"`vectors` must be of shape (n, {grid.ndim * grid.size}) and finite, "
                             f"got {vectors.shape}.")
        weights = self._weights(problem)
        mass, densities = problem.source_values * grid.cell_volume, []
        for vector in vectors.reshape(-1, grid.ndim, *grid.shape):
            moved = PiecewiseAffineMap(grid, target_grid, vector / weights)
            densities.append(moved.deposited(mass, target_grid, True) / target_grid.cell_volume)
        return np.array(densities)

    def _problem(self, density):
        return TransportProblem(self.reference, density, grid=self.grid, target_grid=self.target_grid,
                                floor=self.floor)

    @staticmethod
    def _weights(problem):
        return np.sqrt(problem.source_values * problem.grid.cell_volume)
