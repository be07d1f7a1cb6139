"""The superbases of Z^2 up to a radius: what the monotone determinant may look at, beyond the 3x3 stencil."""
from __future__ import annotations

import math

import numpy as np

from .ghosts import fill_ghosts
from .kernels import superbases as kernels

WIDEST = 5
"""Radius that resolves Hessians up to condition 100 in any direction."""
NARROW = 0.05
"""Source mass beyond the superbases above which wider ones are taken, or a warning is given."""
LARGEST_WIDE = 2**18
"""Cells beyond which superbases stay within the 3x3 stencil: the weights of the widest take 40 numbers a cell."""


def _primitive(radius):
    """Primitive vectors with entries up to ``radius``, one of each pair ``e, -e``; the axes first."""
    vectors = [(x, y) for x in range(radius + 1) for y in range(-radius, radius + 1)
               if math.gcd(x, y) == 1 and (x > 0 or y > 0)]
    return sorted(vectors, key=lambda v: (v not in ((1, 0), (0, 1)), -v[0] if 0 in v else v[0] ** 2 + v[1] ** 2, v))


class SuperbaseFamily:
    """All superbases ``(e0, e1, e2)``, ``e0 + e1 + e2 = 0`` and ``|det(e0, e1)| = 1``, with entries up to ``radius``.

    The monotone determinant is the minimum over all of them (MA-LBR; Benamou, Collino & Mirebeau, Math. Comp. 85,
    2016): it is exact for quadratics whose obtuse superbase is one of them, and an infimum of
    degenerate elliptic operators for any potential. Has the functions of ``kernels.monge_ampere_2d`` that the operator
    asks for; ``padded`` has one ghost layer there too, and gets more here.

    Attributes
    ----------
    offsets : ndarray of int64, (K, 2)
        One of each pair ``e, -e``; the first two are the axes.
    bases : ndarray of int64, (B, 3)
        Superbases by the numbers of their members.

    Examples
    --------
    >>> [len(SuperbaseFamily(radius, (False, False)).bases) for radius in (1, 2, 5)]
    [2, 6, 38]
    """

    def __init__(self, radius, periodic):
        self.radius, self.periodic = radius, periodic
        vectors = _primitive(radius)
        number = {v: k for k, v in enumerate(vectors)} | {(-x, -y): k for k, (x, y) in enumerate(vectors)}
        bases, edge = [], []
        for k, (a, b) in enumerate(vectors):
            for m in range(k + 1, len(vectors)):
                for c, d in (vectors[m], (-vectors[m][0], -vectors[m][1])):
                    third = number.get((a + c, b + d), -1)
                    if abs(a * d - b * c) == 1 and third > m:
                        bases.append((k, m, third))
        known = {frozenset(base) for base in bases}
        for base in bases:
            edge.append([self._beyond(vectors, number, base, member) not in known for member in range(3)])
        self.offsets = np.array(vectors, dtype=np.int64)
        self.bases, self._edge = np.array(bases, dtype=np.int64), np.array(edge)

    @staticmethod
    def _beyond(vectors, number, base, member):
        """The other superbase with the two members of ``base`` that are not ``member``, as a set of numbers."""
        p, q = (base[k] for k in range(3) if k != member)
        (a, b), (c, d) = vectors[p], vectors[q]
        others = {number.get((a + c, b + d), -1), number.get((a - c, b - d), -1)} - {base[member]}
        return frozenset({p, q} | others)

    def _pad(self, padded):
        wide = np.pad(padded[1:-1, 1:-1], self.radius)
        fill_ghosts(wide, self.radius, self.periodic)
        return wide

    def monotone(self, padded, *arguments):
        kernels.monotone(self._pad(padded), self.radius, self.offsets, self.bases, *arguments)

    def monotone_extension(self, padded, *arguments):
        kernels.monotone_extension(self._pad(padded), self.radius, self.offsets, self.bases, *arguments)

    def monotone_checks(self, padded, *arguments):
        kernels.monotone_checks(self._pad(padded), self.radius, self.offsets, self.bases, self._edge, *arguments)
