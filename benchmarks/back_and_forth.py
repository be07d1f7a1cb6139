"""The back-and-forth method for quadratic transport on the unit box, as a rival for the benchmarks.

Written from the mathematics of M. Jacobs and F. Léger, "A fast approach to optimal transport: the back-and-forth
method", Numer. Math. 146 (2020). With the cost ``c(x, y) = |x - y|^2 / 2`` the dual problem is to maximise

    J(phi) = int phi dnu + int phi^c dmu,       phi^c(x) = min_y c(x, y) - phi(y),

whose gradient in H^1 is ``(-Laplacian)^-1 (nu - T # mu)`` with ``T = id - grad phi^c``. One iteration ascends in
``phi``, goes over to ``psi = phi^c``, ascends in ``psi`` by the mirrored formula and comes back. Everything is linear
in the number of cells but the cosine transform of the Poisson solve.

It runs on one thread, as the scattering of the push-forward does not parallelise without a buffer a thread.
"""
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.fft import dctn, idctn

SHORTER, LONGER = 0.8, 1.25  # factors of the step, and the fractions of the predicted gain that call for them
POOR, GOOD = 0.25, 0.75


@dataclass(frozen=True, eq=False)
class BackAndForth:
    """What :func:`solve` found: ``psi`` on the source side, ``phi`` on the target side, both at cell centres.

    ``displacement`` is ``-grad psi`` at the cell centres, ``(d, *shape)``; ``cost`` twice the dual value, so W2^2;
    ``residual`` the H^-1 norm of ``T # mu - nu``; ``reason`` "stalled", "converged" or "iterations".
    """

    displacement: np.ndarray
    cost: float
    phi: np.ndarray
    psi: np.ndarray
    residual: float
    iterations: int
    reason: str


@njit(cache=True, error_model="numpy")
def _lower_envelopes(values, out):
    """Along every row ``out[i] = min_j (i - j)^2 / 2 + values[j]``: lower envelope of parabolas, linear in the row."""
    rows, n = values.shape
    vertex, start = np.empty(n, np.int64), np.empty(n + 1)
    for row in range(rows):
        last = 0
        vertex[0], start[0], start[1] = 0, -np.inf, np.inf
        for j in range(1, n):
            while True:
                i = vertex[last]
                crossing = (values[row, j] - values[row, i]) / (j - i) + 0.5 * (j + i)
                if crossing > start[last]:
                    break
                last -= 1
            last += 1
            vertex[last], start[last], start[last + 1] = j, crossing, np.inf
        last = 0
        for i in range(n):
            while start[last + 1] < i:
                last += 1
            out[row, i] = 0.5 * (i - vertex[last])**2 + values[row, vertex[last]]


def c_transform(potential):
    """``min_y |x - y|^2 / 2 - potential(y)`` over the cell centres of the unit box, axis by axis."""
    values = -potential
    for axis, n in enumerate(potential.shape):
        lines = np.ascontiguousarray(np.moveaxis(values, axis, -1)) * n**2
        out = np.empty_like(lines)
        _lower_envelopes(lines.reshape(-1, n), out.reshape(-1, n))
        values = np.moveaxis(out, -1, axis) / n**2
    return np.ascontiguousarray(values)


def _ghosts(potential):
    """One more cell all around by even reflection: no flux through the faces."""
    return np.pad(potential, 1, mode="symmetric")


def corner_shifts(potential):
    """``-grad potential`` at the corners of the cells, in cells: ``(d, n + 1, ...)``."""
    shifts = []
    for axis, n in enumerate(potential.shape):
        values = _ghosts(potential)
        for other in range(potential.ndim):
            low = np.take(values, range(values.shape[other] - 1), axis=other)
            high = np.take(values, range(1, values.shape[other]), axis=other)
            values = low - high if other == axis else (low + high) / 2
        shifts.append(values * n**2)
    return np.stack(shifts)


def centre_displacement(potential):
    """``-grad potential`` at the cell centres by centred differences, ``(d, *shape)``."""
    ghosted, inner = _ghosts(potential), (slice(1, -1),) * potential.ndim
    return np.stack([(np.roll(ghosted, 1, axis) - np.roll(ghosted, -1, axis))[inner] * (n / 2)
                     for axis, n in enumerate(potential.shape)])


@njit(cache=True, error_model="numpy")
def _extent(low, high):
    """Samples for an image edge of that many cells: no two further apart than half a cell."""
    return max(1, int(np.ceil(2 * abs(high - low))))


@njit(cache=True, error_model="numpy")
def _place(position, n):
    """Cell below a position counted from the first cell centre, and the weight of the one above, inside the box."""
    position = min(max(position, 0.0), n - 1.0)
    cell = min(int(position), n - 2)
    return cell, position - cell


@njit(cache=True, error_model="numpy")
def _splat2(mass, shift, out):
    n, m = mass.shape
    for i in range(n):
        for j in range(m):
            # Largest stretch along each edge of the image quadrilateral, in either direction.
            rows = cols = 1
            for k in range(2):
                for e in range(2):
                    rows = max(rows, _extent(shift[k, i, j + e], shift[k, i + 1, j + e] + (1 - k)))
                    cols = max(cols, _extent(shift[k, i + e, j], shift[k, i + e, j + 1] + k))
            share = mass[i, j] / (rows * cols)
            for p in range(rows):
                s = (p + 0.5) / rows
                for q in range(cols):
                    t = (q + 0.5) / cols
                    a, b, c, d = (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t
                    y0 = i - 0.5 + s + (a * shift[0, i, j] + b * shift[0, i, j + 1]
                                        + c * shift[0, i + 1, j] + d * shift[0, i + 1, j + 1])
                    y1 = j - 0.5 + t + (a * shift[1, i, j] + b * shift[1, i, j + 1]
                                        + c * shift[1, i + 1, j] + d * shift[1, i + 1, j + 1])
                    k0, w0 = _place(y0, n)
                    k1, w1 = _place(y1, m)
                    out[k0, k1] += share * (1 - w0) * (1 - w1)
                    out[k0, k1 + 1] += share * (1 - w0) * w1
                    out[k0 + 1, k1] += share * w0 * (1 - w1)
                    out[k0 + 1, k1 + 1] += share * w0 * w1


@njit(cache=True, error_model="numpy")
def _splat3(mass, shift, out):
    n, m, l = mass.shape
    count, cell, weight = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3)
    for i in range(n):
        for j in range(m):
            for k in range(l):
                count[:] = 1
                for axis in range(3):
                    for e in range(2):
                        for f in range(2):
                            count[0] = max(count[0], _extent(shift[axis, i, j + e, k + f],
                                                             shift[axis, i + 1, j + e, k + f] + (axis == 0)))
                            count[1] = max(count[1], _extent(shift[axis, i + e, j, k + f],
                                                             shift[axis, i + e, j + 1, k + f] + (axis == 1)))
                            count[2] = max(count[2], _extent(shift[axis, i + e, j + f, k],
                                                             shift[axis, i + e, j + f, k + 1] + (axis == 2)))
                share = mass[i, j, k] / (count[0] * count[1] * count[2])
                for p in range(count[0]):
                    s = (p + 0.5) / count[0]
                    for q in range(count[1]):
                        t = (q + 0.5) / count[1]
                        for r in range(count[2]):
                            u = (r + 0.5) / count[2]
                            for axis in range(3):
                                position = (i - 0.5 + s, j - 0.5 + t, k - 0.5 + u)[axis]
                                for corner in range(8):
                                    e, f, g = corner >> 2, (corner >> 1) & 1, corner & 1
                                    w = (s if e else 1 - s) * (t if f else 1 - t) * (u if g else 1 - u)
                                    position += w * shift[axis, i + e, j + f, k + g]
                                cell[axis], weight[axis] = _place(position, (n, m, l)[axis])
                            for corner in range(8):
                                e, f, g = corner >> 2, (corner >> 1) & 1, corner & 1
                                w = ((weight[0] if e else 1 - weight[0]) * (weight[1] if f else 1 - weight[1])
                                     * (weight[2] if g else 1 - weight[2]))
                                out[cell[0] + e, cell[1] + f, cell[2] + g] += share * w


def push_forward(mass, potential):
    """``(id - grad potential) # mass`` on the same grid.

    Every cell is carried by the multilinear interpolant of the map at its corners, in samples at most half a cell apart
    that are shared out linearly among the centres around them. Eight times as many samples leave the errors of
    :func:`solve` as they are: its floor is the conjugate over cell centres.
    """
    out = np.zeros_like(mass)
    (_splat2 if mass.ndim == 2 else _splat3)(mass, corner_shifts(potential), out)
    return out


def poisson_symbol(shape):
    """Eigenvalues of ``-Laplacian`` under the cosine transform; the constant's is infinite, so it is projected away."""
    symbol = np.zeros(shape)
    for axis, n in enumerate(shape):
        values = (2 * n * np.sin(np.pi * np.arange(n) / (2 * n)))**2
        symbol += values.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    symbol.flat[0] = np.inf
    return symbol


def solve(source, target, iterations=2000, patience=5, tolerance=0.0):
    """Alternate ascent until the residual no longer falls.

    Parameters
    ----------
    source, target : array_like, the same shape, two or three axes
        Densities on the unit box; normalised here.
    iterations : int
        Most iterations (two ascents each).
    patience : int
        Iterations without a new smallest residual (by a hundredth) after which it has stalled. The discrete conjugate
        takes its minimum over cell centres, so the residual falls to a floor of O(h) within some ten iterations and
        stays there: a hundred more change nothing.
    tolerance : float
        Stop at this residual, in H^-1.

    Returns
    -------
    BackAndForth
        The potentials of the smallest residual met.
    """
    mu, nu = (np.asarray(density, float) / np.mean(density) for density in (source, target))
    if mu.shape != nu.shape or mu.ndim not in (2, 3):
        raise ValueError(f"`source` and `target` must have the same shape of two or three axes, "
                         f"got {mu.shape} and {nu.shape}.")
    symbol, step = poisson_symbol(mu.shape), 4 / max(mu.max(), nu.max())

    def ascend(potential, partner, own, other, step):
        """One ascent of the dual value in ``potential``, tested against ``own``; ``partner`` is its conjugate."""
        excess = own - push_forward(other, partner)
        gradient = idctn(dctn(excess, norm="ortho") / symbol, norm="ortho")
        slope, before = (gradient * excess).mean(), (potential * own + partner * other).mean()
        potential = potential + step * gradient
        partner = c_transform(potential)
        gain = (potential * own + partner * other).mean() - before
        # Armijo and Goldstein: the gain of a small step is step * slope.
        factor = LONGER if gain > GOOD * step * slope else SHORTER if gain < POOR * step * slope else 1.0
        return c_transform(partner), partner, factor * step, np.sqrt(max(slope, 0.0))

    phi, psi = np.zeros_like(mu), np.zeros_like(mu)
    best, since, done, reason = (np.inf, phi, psi), 0, 0, "iterations"
    while done < iterations:
        done += 1
        start = phi, psi
        phi, psi, step, residual = ascend(phi, psi, nu, mu, step)
        since = 0 if residual < 0.99 * best[0] else since + 1
        if residual < best[0]:
            best = (residual, *start)
        if residual <= tolerance or since >= patience:
            reason = "converged" if residual <= tolerance else "stalled"
            break
        psi, phi, step, _ = ascend(psi, phi, mu, nu, step)
    residual, phi, psi = best
    return BackAndForth(centre_displacement(psi), 2 * float((phi * nu + psi * mu).mean()), phi, psi, float(residual),
                        done, reason)
