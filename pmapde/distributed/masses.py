"""Where the masses go: the map on one rank's box, what the maps of all ranks together misplace, and its correction."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..conservation import Correction
from ..status import Status
from ..transport import PiecewiseAffineMap


class BoxMap(PiecewiseAffineMap):
    """:class:`PiecewiseAffineMap` of this rank's cells, its outer nodes those of the neighbouring ranks.

    ``deposited``, and with it ``misplaced_mass``, and ``folded_mass`` are collective and of all ranks; the rest is of
    the box.
    """

    def __init__(self, layout, target_grid, displacement):
        super().__init__(layout.box(), target_grid, displacement)
        self.layout = layout
        # a lattice cell between two ranks, or across the period, belongs to the rank above it
        self._first = np.array([wraps or first > 0 for wraps, (first, _) in zip(layout.grid.periodic, layout.ranges)],
                               dtype=np.int64)
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

    def folded_mass(self, source_values):
        return self.layout.sum(super().folded_mass(source_values))

    def halved(self, source_values):
        """None: pairs of cells may belong to two ranks."""


def conserved(whole, operator, step, solved, stats):
    """From the converged ``step``: :func:`pmapde.remedies.conserved` across ranks, but for straightened folds and finer
    cells. A generator of steps, collective; ends with the best, ``CONVERGED``.

    ``whole``: what has the target. ``solved``: ``(operator, phi)`` to the steps of one equation, the last with a status
    unless there were too many.
    """
    correction, best = Correction(whole, operator.problem), step
    while True:
        found = BoxMap(operator.layout, whole.target_grid, operator.displacement(step.phi))
        again = correction.judge(step.phi, found, operator.problem.source_masses)
        best = step if correction.best is step.phi else best
        if not again:
            break
        best = replace(best, judged=correction.found)
        yield replace(step, status=None, good=best)
        corrected = operator.on(correction.next_problem())
        for step in solved(corrected, correction.best):
            step = replace(step, level=best.level, levels=best.levels, good=best)
            if step.status is None:
                yield step
        if step.status is not Status.CONVERGED:
            break
    stats["misplaced"].append({"grid": "x".join(map(str, operator.layout.grid.shape)),
                               "by round": list(correction.misplaced)})
    yield replace(best, judged=correction.found)
