"""Named example densities on the unit square or cube, by formula or from files that need no download; a known warp.

Importing this module loads neither matplotlib nor numba: the file readers import what they need when called.
"""
from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from .density import checked_values
from .transfer import average


@dataclass(frozen=True)
class CosineSum:
    """``sum_j c_j prod_i cos(w_ji x_i + p_ji)`` with its derivatives.

    Parameters
    ----------
    coefficients : sequence of m floats, the ``c_j``
    waves, phases : sequences of m sequences of d floats, the ``w_ji`` and ``p_ji``

    Examples
    --------
    >>> wave = CosineSum([2.0], [[np.pi, np.pi]], [[0.0, 0.0]])
    >>> wave.value(np.array([[0.0, 1.0]]))
    array([-2.])
    """

    coefficients: tuple
    waves: tuple
    phases: tuple

    def derivative(self, points, orders):
        """Partial derivative of the given order per axis at points ``(n, d)``, shape ``(n,)``."""
        result = np.zeros(len(points))
        for coefficient, waves, phases in zip(self.coefficients, self.waves, self.phases):
            term = coefficient
            for axis, (wave, phase, order) in enumerate(zip(waves, phases, orders)):
                term = term * wave**order * np.cos(wave * points[:, axis] + phase + order * np.pi / 2)
            result += term
        return result

    def value(self, points):
        """Shape ``(n,)``."""
        return self.derivative(points, np.zeros(points.shape[1], int))

    def gradient(self, points):
        """Shape ``(n, d)``."""
        return np.stack([self.derivative(points, unit) for unit in np.eye(points.shape[1], dtype=int)], axis=1)

    def hessian(self, points):
        """Shape ``(n, d, d)``."""
        ndim = points.shape[1]
        units, result = np.eye(ndim, dtype=int), np.empty((len(points), ndim, ndim))
        for i, j in product(range(ndim), repeat=2):
            if i <= j:
                result[:, i, j] = result[:, j, i] = self.derivative(points, units[i] + units[j])
        return result


def displacement_potential(ndim, strength, periodic=False):
    """The non-separable ``phi`` of the warp ``x -> x + grad phi(x)`` of the unit box or torus onto itself.

    ``strength`` bounds the spectral norm of ``D2 phi``: a product of cosines is a mean of plane waves
    ``cos(w.x + p)``, whose Hessians have norm at most ``|w|^2``, and the coefficients are weights over ``|w|^2``. So
    ``|x|^2/2 + phi`` is convex for ``strength < 1``. Cosines without phases have no normal derivative on the faces
    of the box: faces are mapped onto faces.

    Examples
    --------
    >>> float(abs(displacement_potential(2, 0.5).gradient(np.array([[0.0, 0.4]]))[0, 0])) < 1e-15
    True
    """
    if ndim not in (2, 3):
        raise ValueError(f"`ndim` must be 2 or 3, got {ndim!r}.")
    if not 0 <= strength < 1:
        raise ValueError(f"`strength` must be in [0, 1) for the potential to be convex, got {strength!r}.")
    waves = np.array([[1, 1, 1], [2, 1, 1]])[:, :ndim] * (2 * np.pi if periodic else np.pi)
    phases = np.array([[0.0, -np.pi / 2, 0.4], [0.7, 0.3, 1.1]])[:, :ndim] * (1 if periodic else 0)
    weights = strength * np.array([0.6, 0.4]) / (waves**2).sum(axis=1)
    return CosineSum(tuple(weights), tuple(map(tuple, waves)), tuple(map(tuple, phases)))


def warp_map(points, strength=0.5):
    """The map of :func:`warped` at points ``(n, d)`` of the unit box: the gradient of ``|x|^2/2 + phi``, convex.

    Examples
    --------
    >>> bool(np.allclose(warp_map(np.array([[0.0, 1.0]])), [[0.0, 1.0]]))    # corners stay
    True
    """
    points = np.asarray(points, float)
    return points + displacement_potential(points.shape[1], strength).gradient(points)


def warped(values, strength=0.5):
    """Push-forward of an image or volume by :func:`warp_map`, sampled on the same grid: a real pair with a known map.

    ``nu(y) = mu(x) / det(I + D2 phi(x))`` with ``y = x + grad phi(x)`` at the cell centres ``y``, where ``mu`` is
    interpolated linearly; then scaled to the mass of ``values`` (a factor ``1 + O(h^2)`` on smooth images). Axes of
    any length share the unit box.

    Parameters
    ----------
    values : array_like, two or three axes, non-negative
    strength : float in [0, 1)
        Bound on the relative stretching; 0 is the identity.

    Returns
    -------
    ndarray of the same shape

    Examples
    --------
    >>> image = load("cosine", (32, 32))
    >>> bool(np.isclose(warped(image).sum(), image.sum()))
    True
    """
    values = checked_values(values, "values")
    potential = displacement_potential(values.ndim, strength)
    targets = _cell_points(values.shape, np.full(values.ndim, 0.5))
    points, change = targets, np.inf
    while change > 1e-13:  # a contraction with factor `strength`, since |D2 phi| <= strength < 1
        previous, points = points, targets - potential.gradient(points)
        change = np.abs(points - previous).max()
    index = points.T * np.array(values.shape)[:, None] - 0.5
    density = ndimage.map_coordinates(values, index, order=1, mode="reflect")
    result = density / np.linalg.det(np.eye(values.ndim) + potential.hessian(points))
    return (result * (values.sum() / result.sum())).reshape(values.shape)


def _cell_points(shape, offset):
    """One point per cell of the unit box, ``offset`` in [0, 1]^d inside the cell: ``(cells, d)``."""
    axes = [(np.arange(n) + shift) / n for n, shift in zip(shape, offset)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))


def cell_averages(function, shape):
    """Averages over the cells of the unit box of ``function`` ((n, d) -> (n,)): three Gauss points per axis, order 6.

    Examples
    --------
    >>> cell_averages(lambda x: x[:, 0]**2, (2, 2))[:, 0].round(6)
    array([0.083333, 0.583333])
    """
    nodes, weights = np.polynomial.legendre.leggauss(3)
    result = np.zeros(shape)
    for choice in product(range(3), repeat=len(shape)):
        points = _cell_points(shape, (nodes[list(choice)] + 1) / 2)
        result += np.prod(weights[list(choice)] / 2) * function(points).reshape(shape)
    return result


def _bump(points, centre, width):
    centre = np.array(centre)[:points.shape[1]]
    return np.exp(-((points - centre)**2).sum(axis=1) / (2 * width**2))


def _ball(points, centre, radius):
    """One inside, zero outside, with an edge a few hundredths wide."""
    distance = np.sqrt(((points - np.array(centre)[:points.shape[1]])**2).sum(axis=1))
    return (1 + np.tanh((radius - distance) / 0.04)) / 2


def _two_gaussians(x):
    return 0.25 + 2 * _bump(x, (0.3, 0.35, 0.4), 0.09) + 1.5 * _bump(x, (0.7, 0.6, 0.65), 0.12)


def _two_moons(x):
    angles = np.linspace(0, np.pi, 33)  # neighbouring bumps are closer than their width: no ripple
    upper = np.stack([0.4 + 0.22 * np.cos(angles), 0.45 + 0.22 * np.sin(angles)], axis=1)
    moons = np.concatenate([upper, 1 - upper])
    return 0.02 + sum(_bump(x, centre, 0.04) for centre in moons) / 10


def _ring(x):
    return 0.05 + np.exp(-(np.hypot(x[:, 0] - 0.5, x[:, 1] - 0.5) - 0.3)**2 / (2 * 0.05**2))


def _torus(x):
    radius = np.hypot(x[:, 0] - 0.5, x[:, 1] - 0.5) - 0.27
    return 0.05 + np.exp(-(radius**2 + (x[:, 2] - 0.5)**2) / (2 * 0.07**2))


_FORMULAS = {  # name: (dimensions, function of points); all positive
    "uniform": ((2, 3), lambda x: np.ones(len(x))),
    "gaussian": ((2, 3), lambda x: _bump(x, (0.5, 0.5, 0.5), 0.15)),
    "two_gaussians": ((2, 3), _two_gaussians),
    "cosine": ((2, 3), lambda x: np.prod(1 + 0.6 * np.cos(2 * np.pi * x), axis=1)),
    "checkerboard": ((2, 3), lambda x: 0.1 + (1 + np.tanh(6 * np.prod(np.sin(4 * np.pi * x), axis=1))) / 2),
    "ball": ((2, 3), lambda x: 0.05 + _ball(x, (0.5, 0.5, 0.5), 0.3)),
    "two_balls": ((2, 3), lambda x: 0.05 + _ball(x, (0.3, 0.3, 0.35), 0.18) + _ball(x, (0.68, 0.7, 0.65), 0.22)),
    "ring": ((2,), _ring),
    "two_moons": ((2,), _two_moons),
    "torus3d": ((3,), _torus),
}


def _mri(path):
    """Head slice, 256 x 256; 16-bit big-endian (the other order only multiplies the values, 0..215, by 256)."""
    import gzip
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), ">u2").reshape(256, 256)


def _photo(path):
    """Portrait, 600 x 512; luminance 0.299 R + 0.587 G + 0.114 B (ITU-R 601), 0..255."""
    from PIL import Image
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _terrain(path):
    """Metres above the lowest cell, 344 x 403."""
    with np.load(path) as archive:
        return archive["elevation"] - float(archive["elevation"].min())


def _relief(path):
    """Slope |grad elevation| in metres per metre, 344 x 403; a degree of latitude taken as 111.2 km."""
    with np.load(path) as archive:
        elevation, latitude = archive["elevation"].astype(float), (archive["ymin"] + archive["ymax"]) / 2
        north, east = 111200 * archive["dy"], 111200 * archive["dx"] * np.cos(np.radians(latitude))
    return np.hypot(*np.gradient(elevation, float(north), float(east)))


def _bathymetry(path):
    """Land and sea floor in metres above the deepest cell (1437 m below sea level), 91 x 120, first row south."""
    with np.load(path) as archive:
        return archive["topo"] - float(archive["topo"].min())


_FILES = {  # name: (sample file shipped with matplotlib, reader)
    "mri": ("s1045.ima.gz", _mri),
    "grace_hopper": ("grace_hopper.jpg", _photo),
    "terrain": ("jacksboro_fault_dem.npz", _terrain),
    "relief": ("jacksboro_fault_dem.npz", _relief),
    "bathymetry": ("topobathy.npz", _bathymetry),
}


def names(ndim=None):
    """Names :func:`load` knows, sorted; with ``ndim``, those of that many dimensions only.

    Examples
    --------
    >>> names(3)
    ['ball', 'checkerboard', 'cosine', 'gaussian', 'torus3d', 'two_balls', 'two_gaussians', 'uniform']
    """
    return sorted(name for name in (*_FORMULAS, *_FILES) if ndim is None or ndim in _dimensions(name))


def load(name, shape=None, ndim=None):
    """A named example density as an array of non-negative cell averages on the unit square or cube.

    Parameters
    ----------
    name : str
        One of :func:`names`. Formulas are positive; files (``mri``, ``grace_hopper``, ``terrain``, ``relief``,
        ``bathymetry``: images shipped with matplotlib) contain zeros and need a ``floor`` in the problem.
    shape : tuple of int, optional
        Cells per axis. Formulas are averaged over these cells (default 128 x 128 or 64 x 64 x 64); a file is
        resampled from its own shape by exact overlaps, which conserves the mass.
    ndim : int, optional
        2 or 3 where ``shape`` is omitted; by default 2, or 3 for a name that is three-dimensional only.

    Returns
    -------
    ndarray, float64

    Raises
    ------
    ValueError
        For an unknown name (the message lists the known ones), a dimension the name does not have, or a file that
        this installation of matplotlib left out.

    Examples
    --------
    >>> load("two_gaussians", (16, 12)).shape, load("torus3d").shape
    ((16, 12), (64, 64, 64))
    """
    if name not in _FORMULAS and name not in _FILES:
        close = difflib.get_close_matches(str(name), names(), 1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`name` {name!r} is not in the gallery;{hint} known names: {', '.join(names())}.")
    if shape is not None and ndim not in (None, len(shape)):
        raise ValueError(f"`shape` {shape} has {len(shape)} axes but `ndim` is {ndim}; leave one of them out.")
    ndim = len(shape) if shape is not None else ndim or _dimensions(name)[0]
    if ndim not in _dimensions(name):
        raise ValueError(f"{name!r} is {_dimensions(name)[0]}-dimensional, got ndim {ndim}; "
                         f"names in that dimension: {', '.join(names(ndim)) or 'none'}.")
    if name in _FORMULAS:
        return cell_averages(_FORMULAS[name][1], tuple(shape or ((128, 128) if ndim == 2 else (64, 64, 64))))
    values = np.array(_read(name), dtype=np.float64, order="C")
    return values if shape is None else average(values, tuple(shape))


def _dimensions(name):
    return _FORMULAS[name][0] if name in _FORMULAS else (2,)


def _read(name):
    from matplotlib.cbook import get_sample_data
    file, reader = _FILES[name]
    try:
        return reader(get_sample_data(file, asfileobj=False))
    except FileNotFoundError:
        raise ValueError(f"{name!r} is read from matplotlib's sample file {file}, which this installation left out; "
                         f"choose a formula instead: {', '.join(sorted(_FORMULAS))}.") from None
