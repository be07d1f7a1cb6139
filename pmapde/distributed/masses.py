"""Where the masses go: the map on one rank's box, and what the maps of all ranks together misplace."""
from __future__ import annotations

import numpy as np

from ..transport import PiecewiseAffineMap


class BoxMap(PiecewiseAffineMap):
    """:class:`PiecewiseAffineMap` of this rank's cells, its outer nodes those of the neighbouring ranks.

    ``deposited``, and with it ``misplaced_mass``, is collective and of all ranks; the rest is of the box.
    """

    def __init__(self, layout, target_grid, displacement):
        super().__init__(layout.box(), target_grid, displacement)
        self.layout = layout
        nodes = self.nodes.reshape(self.dimension, *self.shape + 2)
        for component in range(self.dimension):
            padded = layout.pad(displacement[component], np.empty(tuple(self.shape + 2)))
            start, h, n = self.grid.lower[component], self.grid.spacing[component], self.shape[component]
            centres = start + (np.arange(n + 2) - 0.5) * h
            padded += centres.reshape([-1 if axis == component else 1 for axis in range(self.dimension)])
            view, inner = np.moveaxis(padded, component, 0), np.moveaxis(nodes[component], component, 0)
            if not layout.grid.periodic[component]:  # faces of the grid go to faces of the target
                view[0] = inner[0] if layout.ranges[component][0] == 0 else view[0]
                view[-1] = inner[-1] if layout.ranges[component][1] == layout.grid.shape[component] else view[-1]
            nodes[component] = padded
            if layout.grid.periodic[component] or layout.ranges[component][0] > 0:
                self.axes[component, 0] = centres[0]
            if layout.grid.periodic[component] or layout.ranges[component][1] < layout.grid.shape[component]:
                self.axes[component, n + 1] = centres[-1]

    @property
    def _geometry(self):  # images wrap as they do on the whole grid
        return (*super()._geometry[:-1], np.array(self.layout.grid.periodic))

    def deposited(self, mass, grid, smooth, time=1.0, widest=1.0):
        own = super().deposited(mass, grid, smooth, time, widest)
        total = np.empty_like(own)
        self.layout.comm.Allreduce(own, total)
        return total
