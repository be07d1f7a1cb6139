"""Memory: what a solve is expected to need, and what there is; checked before anything large is allocated."""
from __future__ import annotations

import math

BYTES_PER_CELL = {2: 160, 3: 196}
"""Peak of a solve with geometric multigrid and a uniform target, beyond the problem itself: 20 to 25 fields."""
INTERPOLATED = {2: 36, 3: 44}
"""More where the target is interpolated: its values and coefficients, and the drift."""
FUNCTION = {2: 76, 3: 104}
"""More where it is a function: points, values, gradient, and the drift."""
AVERAGED = {2: 100, 3: 110}
"""More where it is averaged over images: derivatives in their widths, and the fields of Jacobi steps."""
BLACK_BOX = {2: 350, 3: 420}
"""More where black-box multigrid takes over, with the fields of BiCGSTAB around it."""

SMALL = 2**26
"""Bytes that are not asked for before they are allocated in the middle of a solve."""
CONTRASTED, CONTRAST = {2: 200, 3: 520}, {2: 100.0, 3: 1000.0}
"""More where it takes over without them, in 3D perhaps on a coarser grid already, so that it is there from the start;
and the contrast of the source from which on that is expected."""


def memory_estimate(problem):
    """Bytes a solve is expected to need at its peak, beyond the problem itself.

    A bound with a margin, held against traced allocations in ``tests/test_full_multigrid.py``, of a solve with
    geometric multigrid. Black-box multigrid, which takes over where that converges poorly, is counted where this is to
    be expected: for targets that are averaged and for sources of high contrast. Elsewhere (a tolerance much below the
    discretisation error, an aspect ratio far from one) it takes over only if there is the memory for it.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> pmapde.memory_estimate(pmapde.TransportProblem(np.ones((64, 64)), np.ones((64, 64)))) < 2e6
    True
    """
    values = problem.source_values
    return _needed(problem, bool(values.max() > CONTRAST[problem.ndim] * values.min()))


def _needed(problem, contrasted):
    """The same of a source whose contrast is known to be high, or not."""
    ndim, target = problem.ndim, problem.target
    cell = BYTES_PER_CELL[ndim]
    on_cells = hasattr(target, "at_images")
    if not on_cells:
        cell += FUNCTION[ndim]
    elif not target.is_uniform:
        cell += INTERPOLATED[ndim]
    if target.is_rough():
        cell += AVERAGED[ndim] + BLACK_BOX[ndim]
    elif contrasted:
        cell += CONTRASTED[ndim]
    coefficients = 8 * problem.target_grid.size if on_cells and not target.is_uniform else 0
    return cell * problem.grid.size + coefficients


def fits(bytes_per_cell, shape):
    """Whether there is the memory for so much on a grid; not asked where it is little."""
    needed = bytes_per_cell[len(shape)] * math.prod(shape)
    return needed <= SMALL or needed <= available_memory()


def available_memory():
    """Bytes this process may still allocate; infinity where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf
    try:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return available
        with open("/proc/self/statm") as file:  # what is mapped already counts
            return min(available, max(0, limit - int(file.read().split()[0]) * resource.getpagesize()))
    except ImportError:
        return available


def refuse_oversized(problem, needed=None):
    """:class:`MemoryError` where ``needed`` bytes, by default those of a solve, are more than there is."""
    available = available_memory()
    if needed is None and _needed(problem, True) > available:  # only then is its contrast looked at
        needed = memory_estimate(problem)
    if needed is not None and needed > available:
        raise MemoryError(f"a grid of {'x'.join(map(str, problem.grid.shape))} cells needs about {needed / 2**30:.2g} "
                          f"GiB and {available / 2**30:.2g} GiB are available; use a coarser `grid`.")
