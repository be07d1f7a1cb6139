"""BrenierGenerator, its three ratios, against sampling a kernel density estimate and a Gaussian mixture.

    python benchmarks/bench_generative.py [--seeds 20] [--seeds-3d 10] [--samples 5000] [--only NAME ...]
        [--ratios logistic density score] [--out generative] [--real]

Paired seeds: training, held-out and fresh samples are the same for all methods. Energy distance (V-statistic) and
sliced W2 of generated to held-out samples are given relative to those of a fresh sample of the same size. Draws from
the training set with replacement have 1.5 in expectation, of single seeds 1 to 2.5: the scatter of the draws, of the
held-out and of the training samples have one share each, a fresh sample has two. "resampled / fresh" is what they have
with these training and held-out samples, exactly, in expectation over the draws only: a model that keeps the low
moments of the training set, on which the energy distance mostly depends, has about as much. "training / fresh", the
training set's own distance, says how lucky it was. "Sobol'" is the same model, drawn with quasi-Monte Carlo noise,
which has next to no share: 1 in expectation. "error" is the standard error of the ratio of means (delta method). The
log-likelihood is the mean over the held-out samples within everybody's box. "nearest" is the Kolmogorov-Smirnov
distance between the distances of generated and of fresh samples to the training set, with the share of seeds in which
they differ, and in which the generated ones are nearer: what memorising does. With --real halves of tables are training
and held-out samples, and the training half stands for the fresh sample ("nearest" then means nothing and is left out).
The Gaussian mixture and the real data need scikit-learn (extra "generative"). The results on disk grow
with every data set that is done, and every five seeds.
"""
import argparse
import time
import warnings

import numpy as np
from common import report
from scipy.spatial.distance import cdist
from two_sample import energy_distance, nearest_ks, sliced_w2

import pmapde
from pmapde import toys

TOYS = ("moons", "ring", "checkerboard", "five_gaussians", "rings", "spirals", "eight_gaussians", "helix", "mixture3d")
RATIOS = ("logistic", "density", "score")

SEQUENCES = (("", {}), (", Sobol'", {"sequence": "sobol"}))


class KernelDensity:
    """Gaussian kernels on whitened data, bandwidth by five-fold cross-validated likelihood; exact sums."""

    def fit(self, X):
        self.mean = X.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(X.T))
        self.root = vectors * np.sqrt(values) @ vectors.T
        Z = np.linalg.solve(self.root, (X - self.mean).T).T
        folds = np.random.default_rng(0).permutation(len(Z)) % 5
        widths = np.geomspace(0.03, 0.5, 15)
        total = [sum(self._log(Z[folds == k][:500], Z[folds != k], width).sum() for k in range(5)) for width in widths]
        self.width, self.centres = widths[int(np.argmax(total))], Z
        return self

    @staticmethod
    def _log(points, centres, width):
        out = np.empty(len(points))
        for start in range(0, len(points), 1000):
            squares = cdist(points[start:start + 1000], centres, "sqeuclidean")
            least = squares.min(axis=1)
            out[start:start + 1000] = (np.log(np.exp((least[:, None] - squares) / (2 * width**2)).mean(axis=1))
                                       - least / (2 * width**2))
        return out - points.shape[1] / 2 * np.log(2 * np.pi * width**2)

    def sample(self, n, rng):
        Z = self.centres[rng.integers(0, len(self.centres), n)]
        return self.mean + (Z + self.width * rng.standard_normal(Z.shape)) @ self.root

    def score_samples(self, X):
        Z = np.linalg.solve(self.root, (X - self.mean).T).T
        return self._log(Z, self.centres, self.width) - np.linalg.slogdet(self.root)[1]


class Mixture:
    """scikit-learn's GaussianMixture, full covariances, 1 to 16 components by BIC."""

    def fit(self, X):
        from sklearn.mixture import GaussianMixture
        counts = (1, 2, 3, 4, 5, 6, 8, 12, 16)
        fits = [GaussianMixture(count, random_state=0).fit(X) for count in counts if count * 10 <= len(X)]
        self.model = min(fits, key=lambda fit: fit.bic(X))
        return self

    def sample(self, n, rng):
        self.model.random_state = int(rng.integers(2**31))
        return self.model.sample(n)[0]

    def score_samples(self, X):
        return self.model.score_samples(X)


def contenders(seed, ratios):
    yield from ((f"generator, {ratio}", pmapde.BrenierGenerator(ratio, ledger=None, random_state=seed))
                for ratio in ratios)
    yield "KDE", KernelDensity()
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sklearn":  # installed, but broken
            raise
        return
    yield "Gaussian mixture", Mixture()


def compared(training, held_out, fresh, seed, ratios):
    """One dict per method: seconds, distances relative to a fresh sample's, log-likelihood."""
    rows = []
    base = [max(distance(fresh, held_out), 1e-300) for distance in (energy_distance, sliced_w2)]
    train = energy_distance(training, held_out)
    resampled = train + cdist(training, training).mean() / len(fresh)  # the V-statistic's pairs of a draw with itself
    for name, method in contenders(seed, ratios):
        begin = time.perf_counter()
        method.fit(training)
        seconds = time.perf_counter() - begin
        logs = method.score_samples(held_out)
        for suffix, settings in SEQUENCES if name == "generator, logistic" else SEQUENCES[:1]:
            drawn = method.sample(len(fresh), np.random.default_rng(1000 + seed), **settings)
            nearest, p, nearer = nearest_ks(drawn, fresh, training)
            rows.append({"method": name + suffix, "seconds": seconds, "energy": energy_distance(drawn, held_out),
                         "fresh": base[0], "train": train, "resampled": resampled,
                         "sliced W2 / fresh": sliced_w2(drawn, held_out) / base[1], "nearest": nearest,
                         "nearest p": p, "nearer p": nearer, "log-likelihood": float(logs.mean())})
    return rows


def averaged(name, runs, real=False):
    """Means over seeds; the energy distance as a ratio of means."""
    out = []
    for rows in zip(*runs):
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "method"}
        ratio = mean["energy"] / mean["fresh"]
        spread = np.std([row["energy"] - ratio * row["fresh"] for row in rows], ddof=1 if len(rows) > 1 else 0)
        out.append({"data": name, "method": rows[0]["method"], "seeds": len(rows),
                    "energy / fresh": ratio, "error": float(spread / mean["fresh"] / len(rows) ** 0.5),
                    "training / fresh": mean["train"] / mean["fresh"],
                    "resampled / fresh": mean["resampled"] / mean["fresh"],
                    "sliced W2 / fresh": mean["sliced W2 / fresh"],
                    "log-likelihood": mean["log-likelihood"], "nearest": mean["nearest"],
                    **{f"{word} p < 0.05": float(np.mean([row[f"{word} p"] < 0.05 for row in rows]))
                       for word in ("nearest", "nearer")},
                    "seconds": mean["seconds"]})
        if real:
            for key in ("nearest", "nearest p < 0.05", "nearer p < 0.05"):
                del out[-1][key]
    return out


def real_data():
    """(name, table) of two and three columns."""
    from sklearn.datasets import load_breast_cancer, load_iris, load_wine
    wine, iris, cancer = load_wine().data, load_iris().data, load_breast_cancer().data
    return [("wine: alcohol, flavanoids", wine[:, [0, 6]]),
            ("iris: sepal width, petal length", iris[:, [1, 2]]),
            ("breast cancer: radius, texture", cancer[:, [0, 1]]),
            ("breast cancer: radius, texture, smoothness", cancer[:, [0, 1, 4]])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seeds-3d", type=int, default=10)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--real", action="store_true", help="real data instead of toys, halves as training and test")
    parser.add_argument("--only", nargs="+", default=TOYS, choices=TOYS)
    parser.add_argument("--ratios", nargs="+", default=RATIOS, choices=RATIOS, help="of the generators")
    parser.add_argument("--out", default="generative", help="name of the results, with --real plus _real")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    if arguments.real:
        for name, table in real_data():
            runs = []
            for seed in range(arguments.seeds if table.shape[1] == 2 else arguments.seeds_3d):
                order, half = np.random.default_rng(seed).permutation(len(table)), len(table) // 2
                # no fresh samples here: the training half stands for them, the ratio is to its own distance
                training, held_out = table[order[:half]], table[order[half:2 * half]]
                runs.append(compared(training, held_out, training, seed, arguments.ratios))
            rows += averaged(name, runs, real=True)
            report(arguments.out + "_real", "halves of real tables: training half against test half is 1", rows)
        return
    for name in arguments.only:
        runs, seeds = [], arguments.seeds if name in toys.names(2) else arguments.seeds_3d
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            clouds = [toys.draw(name, arguments.samples, rng) for _ in range(3)]
            runs.append(compared(*clouds, seed, arguments.ratios))
            print(f"{name}, seed {seed} done", flush=True)
            if len(runs) in (seeds, 5, 10, 15):
                report(arguments.out, f"{arguments.samples} training samples, one thread", rows + averaged(name, runs))
        rows += averaged(name, runs)


if __name__ == "__main__":
    main()
