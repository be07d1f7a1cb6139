"""Spectral preconditioner: a constant-coefficient operator inverted by cosine (no-flux) and Fourier (periodic)
transforms."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft


@dataclass(frozen=True)
class Spectral:
    """Row-scaled inverse of a constant-coefficient Laplacian; no set-up, O(N log N) per application.

    Rows are divided by the local size of the operator (its diagonal relative to the mean diagonal), then
    ``sum_a A_a (2 - 2 cos theta_a) + shift`` is inverted, with ``A_a`` the mean coupling along axis ``a``; theta_a runs
    over pi k / n (no-flux, DCT-II) or 2 pi k / n (periodic, FFT).

    Good values: excellent while the determinant varies little; the number of applications grows with the contrast.
    """

    name = "spectral"
    setup_work, cycle_work = {2: 3.0, 3: 3.0}, {2: 8.0, 3: 8.0}  # work units by dimension, see pmapde.work
    uses_blas = False
    keep = False

    def build(self, stencil, threads=1):
        return _Spectral(stencil)


class _Spectral:
    def __init__(self, stencil):
        # local size of J alone: its diagonal, whose mean normalises the rows
        size = stencil.diagonal() - stencil.shift
        self.scale = size / size.mean()
        self.periodic = stencil.periodic
        axes = range(len(stencil.shape))
        self.cosine = [axis for axis in axes if not stencil.periodic[axis]]
        self.fourier = [axis for axis in axes if stencil.periodic[axis]]
        self.shape = stencil.shape
        frequencies = list(stencil.shape)
        if self.fourier:
            frequencies[self.fourier[-1]] = stencil.shape[self.fourier[-1]] // 2 + 1
        symbol = np.full(frequencies, float((stencil.shift / self.scale).mean()))
        for axis in axes:
            n = stencil.shape[axis]
            angle = (2 if axis in self.fourier else 1) * np.pi * np.arange(frequencies[axis]) / n
            # the coupling along an axis: its own second difference and its share of the diagonal ones
            involved = stencil.offsets[:, axis] != 0
            coupling = float((stencil.weights[involved].sum(axis=0) / self.scale).mean())
            shape = [-1 if other == axis else 1 for other in axes]
            symbol += (coupling * (2 - 2 * np.cos(angle))).reshape(shape)
        symbol.flat[0] = np.inf  # the constant is not part of the solution
        self.inverse = 1 / symbol

    def apply(self, residual, threads=1):
        """Approximate ``A^-1 residual`` without its mean, with one ghost layer."""
        field = residual / self.scale
        if self.cosine:
            field = fft.dctn(field, axes=self.cosine, workers=threads)
        if self.fourier:
            field = fft.rfftn(field, axes=self.fourier, workers=threads)
        field *= self.inverse
        if self.fourier:
            field = fft.irfftn(field, s=[self.shape[axis] for axis in self.fourier], axes=self.fourier, workers=threads)
        return np.pad(fft.idctn(field, axes=self.cosine, workers=threads) if self.cosine else field, 1)
