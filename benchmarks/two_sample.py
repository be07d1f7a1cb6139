"""Distances between sample clouds, by formulas that share nothing with the package."""
import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp


def energy_distance(x, y):
    """V-statistic ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` (Székely & Rizzo, J. Stat. Plan. Inference 143, 2013)."""
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


def sliced_w2(x, y, directions=100):
    """Root of the mean of W2^2 between the projections on random directions (fixed seed); clouds of one size."""
    vectors = np.random.default_rng(0).standard_normal((directions, x.shape[1]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    size = min(len(x), len(y))
    sorted_x, sorted_y = (np.sort(cloud[:size] @ vectors.T, axis=0) for cloud in (x, y))
    return float(np.sqrt(((sorted_x - sorted_y) ** 2).mean()))


def nearest_ks(generated, fresh, training):
    """Kolmogorov-Smirnov distance and p-value between the distances to the training set of generated and fresh
    samples, and the p-value against generated ones being nearer, as memorised samples are."""
    tree = cKDTree(training)
    distances = tree.query(generated)[0], tree.query(fresh)[0]
    result = ks_2samp(*distances)
    return float(result.statistic), float(result.pvalue), float(ks_2samp(*distances, alternative="greater").pvalue)
