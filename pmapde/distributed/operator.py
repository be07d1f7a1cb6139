"""The Monge-Ampère operator on the boxes of a layout: the serial one, but for ghosts and sums."""
from __future__ import annotations

import math

import numpy as np

from ..monge_ampere import MongeAmpere
from ..negative_norm import block_sums, gradient_size, without_mean


class DistributedMongeAmpere(MongeAmpere):
    """:class:`MongeAmpere` on this rank's box; ghosts come from the neighbours, norms and means are of the whole grid.

    All ranks call everything together, and get the same numbers.
    """

    def __init__(self, block, layout, scheme):
        super().__init__(block, scheme)
        self.layout = layout
        self.log_size = math.sqrt(layout.sum(self.log_size**2 * layout.size) / layout.grid.size)
        self.natural_time = float(np.max(block.slopes * layout.grid.lengths**2))

    def on(self, block):
        return DistributedMongeAmpere(block, self.layout, self.scheme)

    def _pad(self, phi):
        return self.layout.pad(phi, self._padded)

    def evaluate(self, phi, extend=False, linearise=True, out=None):
        """As :meth:`MongeAmpere.evaluate`; arrays are of the box, mean, norm and count of the grid."""
        evaluation = super().evaluate(phi, extend, linearise, out)
        evaluation.mean, evaluation.norm = self.layout.moments(evaluation.mean, evaluation.norm)
        evaluation.extended = int(self.layout.sum(evaluation.extended))
        return evaluation

    def algebraic_error(self, evaluation):
        grid, start, source = self.layout.grid, [first for first, _ in self.layout.ranges], self.problem.source_values
        sums = block_sums(evaluation.residual, evaluation.mean, source, grid, start)
        return gradient_size(without_mean(self.layout.comm.allreduce(sums)), grid, self.problem.slopes)

    def mean_free_rms(self, field):
        mean = float(field.mean())
        return self.layout.moments(mean, float(np.sqrt(((field - mean) ** 2).mean())))[1]

    def agreed(self, size):
        return self.layout.largest(size)

    def cost(self, displacement):
        return self.layout.sum(super().cost(displacement))

    def checks(self, phi):
        margin, narrow = super().checks(phi)
        return -self.layout.largest(-margin), self.layout.sum(narrow)
