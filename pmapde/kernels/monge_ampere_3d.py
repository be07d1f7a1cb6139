"""Monge-Ampère kernels in 3D, in index space as in 2D: centred differences on the 19-point stencil, one ghost layer.

The offsets of the linearisation are the three axes, then (1,-1,0), (1,1,0), (1,0,-1), (1,0,1), (0,1,-1), (0,1,1).
"""
import math

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


@njit(cache=True, parallel=True, error_model="numpy")
def centred_log_determinant(phi, quadratic, log_cell, out):
    """``log det M - log_cell`` where the three leading minors are positive (Sylvester), NaN elsewhere."""
    nx, ny, nz = out.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                determinant = _determinant(xx, yy, zz, xy, xz, yz)
                if xx > 0.0 and xx * yy - xy * xy > 0.0 and determinant > 0.0:
                    out[i, j, k] = math.log(determinant) - log_cell
                else:
                    out[i, j, k] = math.nan


@njit(cache=True, parallel=True, error_model="numpy")
def centred_weights(phi, quadratic, weights):
    """Weights (9, nx, ny, nz) of the second differences in tr(M^-1 D2 w), mixed terms split over the two diagonals."""
    nx, ny, nz = weights.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                determinant = _determinant(xx, yy, zz, xy, xz, yz)
                weights[0, i, j, k] = (yy * zz - yz * yz) / determinant
                weights[1, i, j, k] = (xx * zz - xz * xz) / determinant
                weights[2, i, j, k] = (xx * yy - xy * xy) / determinant
                inverse_xy = (xz * yz - xy * zz) / determinant
                inverse_xz = (xy * yz - xz * yy) / determinant
                inverse_yz = (xy * xz - yz * xx) / determinant
                weights[3, i, j, k] = -0.5 * inverse_xy
                weights[4, i, j, k] = 0.5 * inverse_xy
                weights[5, i, j, k] = -0.5 * inverse_xz
                weights[6, i, j, k] = 0.5 * inverse_xz
                weights[7, i, j, k] = -0.5 * inverse_yz
                weights[8, i, j, k] = 0.5 * inverse_yz


@njit(cache=True, parallel=True, error_model="numpy")
def centred_margin(phi, quadratic, out):
    """``out[i]``: smallest eigenvalue of the centred Hessian relative to D2q, row by row (trigonometric formula)."""
    qx, qy, qz = math.sqrt(quadratic[0]), math.sqrt(quadratic[1]), math.sqrt(quadratic[2])
    for i in prange(out.shape[0]):
        smallest = math.inf
        for j in range(phi.shape[1] - 2):
            for k in range(phi.shape[2] - 2):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + 1, j + 1, k + 1, quadratic)
                xx, yy, zz = xx / (qx * qx), yy / (qy * qy), zz / (qz * qz)
                xy, xz, yz = xy / (qx * qy), xz / (qx * qz), yz / (qy * qz)
                mean = (xx + yy + zz) / 3.0
                xx, yy, zz = xx - mean, yy - mean, zz - mean
                spread = math.sqrt((xx * xx + yy * yy + zz * zz + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
                eigenvalue = mean
                if spread > 0.0:
                    cosine = 0.5 * _determinant(xx, yy, zz, xy, xz, yz) / (spread * spread * spread)
                    angle = math.acos(min(1.0, max(-1.0, cosine))) / 3.0
                    eigenvalue = mean + 2.0 * spread * math.cos(angle + 2.0 * math.pi / 3.0)
                elif not spread == 0.0:
                    eigenvalue = math.nan
                if eigenvalue < smallest or math.isnan(eigenvalue):
                    smallest = eigenvalue
        out[i] = smallest


@njit(cache=True, parallel=True, error_model="numpy")
def displacement(phi, radius, spacing, out):
    """``out[a] = d phi / d x_a`` by centred differences, (3, nx, ny, nz)."""
    nx, ny, nz = out.shape[1:]
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                x, y, z = i + radius, j + radius, k + radius
                out[0, i, j, k] = (phi[x + 1, y, z] - phi[x - 1, y, z]) / (2.0 * spacing[0])
                out[1, i, j, k] = (phi[x, y + 1, z] - phi[x, y - 1, z]) / (2.0 * spacing[1])
                out[2, i, j, k] = (phi[x, y, z + 1] - phi[x, y, z - 1]) / (2.0 * spacing[2])


@njit(cache=True, parallel=True, error_model="numpy")
def image_edges(phi, radius, quadratic, spacing, out):
    """``out[a, b] = D2u[a, b] spacing[b]``, (3, 3, nx, ny, nz): edges of the image of a cell."""
    nx, ny, nz = out.shape[2:]
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                xx, yy, zz, xy, xz, yz = _hessian(phi, i + radius, j + radius, k + radius, quadratic)
                out[0, 0, i, j, k] = xx / spacing[0]
                out[1, 1, i, j, k] = yy / spacing[1]
                out[2, 2, i, j, k] = zz / spacing[2]
                out[0, 1, i, j, k] = xy / spacing[0]
                out[1, 0, i, j, k] = xy / spacing[1]
                out[0, 2, i, j, k] = xz / spacing[0]
                out[2, 0, i, j, k] = xz / spacing[2]
                out[1, 2, i, j, k] = yz / spacing[1]
                out[2, 1, i, j, k] = yz / spacing[2]
