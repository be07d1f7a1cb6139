"""Seeded random densities of ten kinds, in the spirit of DOTmark (Schrieber, Schuhmacher & Gottschlich 2017).

    values = density("logit", (64, 64), 1e3, np.random.default_rng(1))

For the robustness benchmark and its tests. Gaussian random fields have Matern spectra, ``amplitude(k) = (k^2 +
k0^2)^-(s + d/2)/2`` on cosine modes, ``s`` the smoothness. Every density is scaled so that its maximum is ``contrast``
times its minimum exactly; the log-Gaussian and logit fields spread the contrast over their range, the others are cut
off at ``max / contrast``. Nobody picks a pair: the generator's state decides.
"""
import numpy as np
from scipy.fft import idctn

from pmapde import gallery

PHOTOGRAPHS = ("grace_hopper", "mri", "relief", "terrain", "bathymetry")


def gaussian(shape, smoothness, rng, length=0.3):
    """Gaussian random field, even about the faces."""
    modes = np.meshgrid(*[np.pi * np.arange(n) for n in shape], indexing="ij")
    power = sum(mode**2 for mode in modes) + (np.pi / length) ** 2
    spectrum = rng.standard_normal(shape) * power ** (-(smoothness + len(shape) / 2) / 2)
    spectrum.flat[0] = 0.0
    return idctn(spectrum, norm="ortho")


def unit(values):
    """Scaled to [0, 1]."""
    return (values - values.min()) / np.ptp(values)


def _white_noise(shape, contrast, rng):
    return rng.random(shape)


def _log_gaussian(shape, contrast, rng):
    return np.exp(np.log(contrast) * unit(gaussian(shape, 1.0, rng)))


def _logit(shape, contrast, rng):
    field = gaussian(shape, 1.0, rng)
    return 1 / (1 + np.exp(-4 * field / field.std()))


def _cauchy(shape, contrast, rng):
    """Three to six anisotropic Cauchy bumps: widths 0.02 to 0.2 of the box, any orientation."""
    points = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"), axis=-1)
    total = np.zeros(shape)
    for _ in range(rng.integers(3, 7)):
        axes, _ = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))
        scaled = (points - rng.random(len(shape))) @ axes / np.exp(rng.uniform(np.log(0.02), np.log(0.2), len(shape)))
        total += rng.random() * (1 + (scaled**2).sum(axis=-1)) ** (-(len(shape) + 1) / 2)
    return total


def _shapes(shape, contrast, rng):
    """Binary: two to five balls and boxes, cells in or out."""
    points = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"))
    inside = np.zeros(shape, bool)
    for _ in range(rng.integers(2, 6)):
        centre = rng.uniform(0.15, 0.85, len(shape)).reshape(-1, *[1] * len(shape))
        widths = rng.uniform(0.08, 0.3, len(shape)).reshape(centre.shape)
        distance = np.abs(points - centre) / widths
        inside |= distance.max(axis=0) < 1 if rng.random() < 0.5 else (distance**2).sum(axis=0) < 1
    return inside.astype(float)


def _photograph(shape, contrast, rng):
    """A random crop of a picture of the gallery, turned over at random; in 3D one turns into another along an axis."""
    def crop():
        picture = gallery.load(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
        rows, columns = (int(n * rng.uniform(0.6, 1.0)) for n in picture.shape)
        row, column = (rng.integers(n - m + 1) for n, m in zip(picture.shape, (rows, columns)))
        picture = picture[row:row + rows, column:column + columns][::rng.choice((1, -1)), ::rng.choice((1, -1))]
        return unit(gallery.average(np.ascontiguousarray(picture), shape[:2]))
    if len(shape) == 2:
        return crop()
    t = (np.arange(shape[2]) + 0.5) / shape[2]
    return crop()[..., None] * (1 - t) + crop()[..., None] * t


def _microscopy(shape, contrast, rng):
    """Blobs of many sizes and brightnesses on a dark ground, with shot noise."""
    points = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"), axis=-1)
    total = np.full(shape, 0.02)
    for _ in range(rng.integers(8, 25)):
        width = np.exp(rng.uniform(np.log(0.015), np.log(0.08)))
        total += rng.uniform(0.2, 1) * np.exp(-((points - rng.random(len(shape))) ** 2).sum(axis=-1) / (2 * width**2))
    return rng.poisson(200 * total).astype(float)


KINDS = {
    "white noise": _white_noise,
    "Gaussian, rough": lambda shape, contrast, rng: unit(gaussian(shape, 0.25, rng)),
    "Gaussian, moderate": lambda shape, contrast, rng: unit(gaussian(shape, 1.0, rng)),
    "Gaussian, smooth": lambda shape, contrast, rng: unit(gaussian(shape, 2.5, rng)),
    "log-Gaussian": _log_gaussian,
    "logit": _logit,
    "Cauchy": _cauchy,
    "shapes": _shapes,
    "photographs": _photograph,
    "microscopy": _microscopy,
}


def density(kind, shape, contrast, rng):
    """A random density of a kind (a key of ``KINDS``), its maximum 1 and its minimum ``1 / contrast``."""
    while True:
        values = KINDS[kind](shape, contrast, rng)
        if np.ptp(values) > 0:  # a drawing may come out blank on a coarse grid
            break
    # affine onto [1 / contrast, 1] would change the shape of those that spread the contrast themselves
    values = values / values.max()
    lowest = 1 / contrast
    return np.maximum(values, lowest) if values.min() < lowest else lowest + (1 - lowest) * unit(values)


def pair(kind, shape, contrast, seed):
    """Source and target, both of the kind and independent; the same for the same arguments."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), *shape])
    return density(kind, shape, contrast, rng), density(kind, shape, contrast, rng)
