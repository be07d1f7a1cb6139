"""How far draws of one density serve another: Pareto-smoothed importance sampling's diagnostic."""
from __future__ import annotations

import math

import numpy as np

LEAST = 5
"""Fewer weights in the tail say nothing."""


def pareto_k(log_weights):
    """Shape ``k`` of the generalised Pareto distribution fitted to the largest importance weights.

    Below 0.5 the weights have a finite variance and importance sampling works, above 0.7 it does not (Vehtari,
    Simpson, Gelman, Yao & Gabry 2024, JMLR 25, Pareto smoothed importance sampling). The largest ``min(n / 5,
    3 sqrt(n))`` weights count; fitted by the empirical Bayes rule of Zhang & Stephens (2009, Technometrics 51).

    Parameters
    ----------
    log_weights : array_like, (n,)
        Any normalisation; ``-inf`` allowed.

    Returns
    -------
    float
        ``-inf`` where the largest weights are equal, ``inf`` where a weight is infinite or not a number.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.random.default_rng(1).random(100_000)
    >>> bool(abs(pareto_k(-0.8 * np.log(u)) - 0.8) < 0.1), bool(pareto_k(np.zeros(1000)) == -np.inf)
    (True, True)
    """
    log_weights = np.sort(np.asarray(log_weights, float), axis=None)
    if len(log_weights) and not log_weights[-1] < np.inf:  # NaN is sorted last
        return math.inf
    n = len(log_weights)
    tail = int(math.ceil(min(n / 5, 3 * math.sqrt(n))))
    if tail < LEAST or not np.isfinite(log_weights[-tail - 1]):
        return math.nan
    weights = np.exp(log_weights[-tail - 1:] - log_weights[-1])
    excess = weights[1:] - weights[0]
    excess = excess[excess > 1e-12]
    if len(excess) < LEAST:
        return -math.inf
    m = len(excess)
    grid = 30 + int(math.sqrt(m))
    quartile = excess[int(m / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-np.outer(theta, excess)).mean(axis=1)
    likelihood = m * (np.log(-theta / shapes) - shapes - 1)
    posterior = np.exp(likelihood - likelihood.max())
    theta = (theta * posterior).sum() / posterior.sum()
    k = np.log1p(-theta * excess).mean()
    return float((m * k + 10 * 0.5) / (m + 10))  # a weak prior at one half
