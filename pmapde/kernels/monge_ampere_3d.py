"""Monge-Ampère kernels in 3D, in index space as in 2D: centred differences on the 19-point stencil, one ghost layer.

The offsets of the linearisation are the three axes, then (1,-1,0), (1,1,0), (1,0,-1), (1,0,1), (0,1,-1), (0,1,1).
"""
import math

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _hessian(phi, i, j, k, quadratic):
    """The six entries xx, yy, zz, xy, xz, yz of M = H D2u H."""
    centre = phi[i, j, k]
    xx = (phi[i + 1, j, k] - centre) - (centre - phi[i - 1, j, k]) + quadratic[0]
    yy = (phi[i, j + 1, k] - centre) - (centre - phi[i, j - 1, k]) + quadratic[1]
    zz = (phi[i, j, k + 1] - centre) - (centre - phi[i, j, k - 1]) + quadratic[2]
    xy = 0.25 * (phi[i + 1, j + 1, k] - phi[i + 1, j - 1, k] - phi[i - 1, j + 1, k] + phi[i - 1, j - 1, k])
    xz = 0.25 * (phi[i + 1, j, k + 1] - phi[i + 1, j, k - 1] - phi[i - 1, j, k + 1] + phi[i - 1, j, k - 1])
    yz = 0.25 * (phi[i, j + 1, k + 1] - phi[i, j + 1, k - 1] - phi[i, j - 1, k + 1] + phi[i, j - 1, k - 1])
    return xx, yy, zz, xy, xz, yz


@njit(cache=True, error_model="numpy")
def _determinant(xx, yy, zz, xy, xz, yz):
    return xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)


@njit(cache=True, error_model="numpy")
def _eigen(matrix, vectors):
    """Eigenvectors of the symmetric 3x3 ``matrix`` in the columns of ``vectors``;
    it is left diagonal (Jacobi rotations)."""
    for a in range(3):
        for b in range(3):
            vectors[a, b] = 1.0 if a == b else 0.0
    for _ in range(12):  # converges quadratically: six sweeps reach rounding
        size = abs(matrix[0, 1]) + abs(matrix[0, 2]) + abs(matrix[1, 2])
        if not size > 1e-15 * (abs(matrix[0, 0]) + abs(matrix[1, 1]) + abs(matrix[2, 2])):
            break
        for p in range(2):
            for q in range(p + 1, 3):
                if matrix[p, q] == 0.0:
                    continue
                theta = 0.5 * (matrix[q, q] - matrix[p, p]) / matrix[p, q]
                t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                for a in range(3):
                    x, y = matrix[a, p], matrix[a, q]
                    matrix[a, p], matrix[a, q] = c * x - s * y, s * x + c * y
                for a in range(3):
                    x, y = matrix[p, a], matrix[q, a]
                    matrix[p, a], matrix[q, a] = c * x - s * y, s * x + c * y
                for a in range(3):
                    x, y = vectors[a, p], vectors[a, q]
                    vectors[a, p], vectors[a, q] = c * x - s * y, s * x + c * y


@njit(cache=True, error_model="numpy")
def _centred_extension(matrix, vectors, log_image, low, high):
    """The extension at one cell (see ``centred_extension``): ``tr(D M) - log det D - 3 - log_image``;
    D in ``matrix``."""
    image = math.exp(log_image)
    root = math.exp(log_image / 3.0)
    _eigen(matrix, vectors)
    least, product = 0, 1.0
    for a in range(3):
        product *= max(matrix[a, a], root)
        least = a if matrix[a, a] < matrix[least, least] else least
    smallest = math.exp(low) * image * max(matrix[least, least], root) / product
    determinant = 1.0
    for a in range(3):
        determinant *= max(matrix[a, a], smallest)
    ratio = min(1.0, math.exp((high + log_image - math.log(determinant)) / 3.0))
    value = math.log(determinant * ratio * ratio * ratio) - 3.0 - log_image
    inverse = np.empty(3)
    for a in range(3):
        inverse[a] = 1.0 / (max(matrix[a, a], smallest) * ratio)
        value += inverse[a] * matrix[a, a]
    for a in range(3):
        for b in range(3):
            matrix[a, b] = 0.0
            for c in range(3):
                matrix[a, b] += inverse[c] * vectors[a, c] * vectors[b, c]
    return value


@njit(cache=True, parallel=True, error_model="numpy")
def centred(phi, quadratic, with_weights, weights, out, inadmissible):
    """``out = det M`` and the weights (9, nx, ny, nz) of the second differences in tr(M^-1 D2 w),
    that of its logarithm.

    Mixed terms are split over the two diagonals of their plane. ``inadmissible[i]`` counts the cells of slab ``i``
    where M is not positive definite.
    """
    nx, ny, nz = out.shape
    for i in prange(nx):
        bad = 0
        for j in range(ny):
            for k in range(nz):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                minor = xx * yy - xy * xy
                determinant = _determinant(xx, yy, zz, xy, xz, yz)
                out[i, j, k] = determinant
                bad += 0 if xx > 0.0 and minor > 0.0 and determinant > 0.0 else 1  # Sylvester
                if with_weights:
                    inverse = 1.0 / determinant
                    half_xy = 0.5 * (xz * yz - xy * zz) * inverse
                    half_xz = 0.5 * (xy * yz - xz * yy) * inverse
                    half_yz = 0.5 * (xy * xz - yz * xx) * inverse
                    weights[0, i, j, k] = (yy * zz - yz * yz) * inverse
                    weights[1, i, j, k] = (xx * zz - xz * xz) * inverse
                    weights[2, i, j, k] = minor * inverse
                    weights[3, i, j, k] = -half_xy
                    weights[4, i, j, k] = half_xy
                    weights[5, i, j, k] = -half_xz
                    weights[6, i, j, k] = half_xz
                    weights[7, i, j, k] = -half_yz
                    weights[8, i, j, k] = half_yz
        inadmissible[i] = bad


@njit(cache=True, parallel=True, error_model="numpy")
def centred_extension(phi, quadratic, log_image, low, high, with_weights, weights, out, extended):
    """Replaces ``out = log det - log_image`` (and the weights) where it leaves ``[low, high]`` or M is not positive
    definite.

    By its tangent at a matrix with the eigenvectors of M, eigenvalues no smaller than
    ``exp(low) image / (product of the others)`` and a determinant of at most ``exp(high) image``: finite.
    ``extended[i]`` counts these cells of slab ``i``. With ``low = -inf`` nothing is replaced: NaN where ``u`` is
    inadmissible.
    """
    nx, ny, nz = out.shape
    for i in prange(nx):
        tangents = 0
        matrix, vectors = np.empty((3, 3)), np.empty((3, 3))
        for j in range(ny):
            for k in range(nz):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                determinant = _determinant(xx, yy, zz, xy, xz, yz)
                positive = xx > 0.0 and xx * yy - xy * xy > 0.0 and determinant > 0.0
                if positive and low <= out[i, j, k] <= high:
                    continue
                if low == -math.inf or math.isnan(determinant):
                    out[i, j, k] = math.nan
                    continue
                tangents += 1
                matrix[0, 0], matrix[1, 1], matrix[2, 2] = xx, yy, zz
                matrix[0, 1], matrix[0, 2], matrix[1, 2] = xy, xz, yz
                matrix[1, 0], matrix[2, 0], matrix[2, 1] = xy, xz, yz
                out[i, j, k] = _centred_extension(matrix, vectors, log_image[i, j, k], low, high)
                if with_weights:
                    weights[0, i, j, k], weights[1, i, j, k], weights[2, i, j, k] = (
                        matrix[0, 0], matrix[1, 1], matrix[2, 2])
                    weights[3, i, j, k], weights[4, i, j, k] = -0.5 * matrix[0, 1], 0.5 * matrix[0, 1]
                    weights[5, i, j, k], weights[6, i, j, k] = -0.5 * matrix[0, 2], 0.5 * matrix[0, 2]
                    weights[7, i, j, k], weights[8, i, j, k] = -0.5 * matrix[1, 2], 0.5 * matrix[1, 2]
        extended[i] = tangents


@njit(cache=True, parallel=True, error_model="numpy")
def centred_margin(phi, quadratic, out):
    """``out[i]``: smallest eigenvalue of the centred Hessian relative to D2q, row by row (trigonometric formula)."""
    rx, ry, rz = 1.0 / math.sqrt(quadratic[0]), 1.0 / math.sqrt(quadratic[1]), 1.0 / math.sqrt(quadratic[2])
    sxx, syy, szz, sxy, sxz, syz = rx * rx, ry * ry, rz * rz, rx * ry, rx * rz, ry * rz
    for i in prange(out.shape[0]):
        smallest = 1e300  # finite: it is subtracted
        for j in range(phi.shape[1] - 2):
            for k in range(phi.shape[2] - 2):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                xx, yy, zz, xy, xz, yz = sxx * xx, syy * yy, szz * zz, sxy * xy, sxz * xz, syz * yz
                ax, ay, az = xx - smallest, yy - smallest, zz - smallest
                if (ax > 0.0 and ax * ay - xy * xy > 0.0
                        and _determinant(ax, ay, az, xy, xz, yz) > 0.0):
                    continue  # its eigenvalues are larger than the smallest so far
                mean = (xx + yy + zz) / 3.0
                xx, yy, zz = xx - mean, yy - mean, zz - mean
                spread = math.sqrt((xx * xx + yy * yy + zz * zz + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
                eigenvalue = mean
                if spread > 0.0:
                    cosine = 0.5 * _determinant(xx, yy, zz, xy, xz, yz) / (spread * spread * spread)
                    angle = math.acos(min(1.0, max(-1.0, cosine))) / 3.0
                    eigenvalue = mean + 2.0 * spread * math.cos(angle + 2.0 * math.pi / 3.0)
                elif not spread == 0.0:  # noqa: SIM201
                    eigenvalue = math.nan
                if eigenvalue < smallest or math.isnan(eigenvalue):
                    smallest = eigenvalue
        out[i] = smallest


@njit(cache=True, parallel=True, error_model="numpy")
def displacement(phi, spacing, out):
    """``out[a] = d phi / d x_a`` by centred differences, (3, nx, ny, nz)."""
    nx, ny, nz = out.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                x, y, z = i + 1, j + 1, k + 1
                out[0, i, j, k] = (phi[x + 1, y, z] - phi[x - 1, y, z]) / (2.0 * spacing[0])
                out[1, i, j, k] = (phi[x, y + 1, z] - phi[x, y - 1, z]) / (2.0 * spacing[1])
                out[2, i, j, k] = (phi[x, y, z + 1] - phi[x, y, z - 1]) / (2.0 * spacing[2])

