"""Numba threads: how many, and when not to use them."""
from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from numbers import Integral

SERIAL_BELOW = 128 * 128
"""Grids with fewer cells run on one thread: a parallel region costs more than it saves,
most of all on a busy machine."""
IN_PARTS_FROM = 2**17
"""Elements from which starting threads of Python pays."""


def checked_threads(threads):
    """The number of threads to use; ``None`` means numba's own setting (``NUMBA_NUM_THREADS``, else all cores)."""
    import numba
    if threads is None:
        return numba.get_num_threads()
    whole = isinstance(threads, Integral) and not isinstance(threads, bool)
    if not (whole and 1 <= threads <= numba.config.NUMBA_NUM_THREADS):
        raise ValueError(f"`threads` must be a whole number from 1 to {numba.config.NUMBA_NUM_THREADS} (set the "
                         f"environment variable NUMBA_NUM_THREADS to raise the upper limit), got {threads!r}.")
    return int(threads)


_told = threading.local()
"""``count``: what numba was told last by this thread, 0 for nothing; None outside :func:`thread_settings`, where others
may tell it something else. ``most``: the threads there are, None outside."""


def use_threads(threads, size):
    """Run the next kernels on a grid of ``size`` cells on ``threads`` threads, or on one if it is small."""
    count = threads if size >= SERIAL_BELOW else 1
    known = getattr(_told, "count", None)
    if known != count:
        refuse_forked()
        import numba
        numba.set_num_threads(count)
        if known is not None:
            _told.count = count


def serial_blas():
    """Context with BLAS on one thread: its threads fight numba's, and change the rounding of sums.

    For what cannot do without BLAS on long vectors only: entering and leaving starts threads that spin for a while.
    """
    return _blas().limit(limits=1, user_api="blas")


@cache
def _blas():
    """Control of the BLAS libraries; looking for them takes longer than a small solve."""
    import scipy.linalg  # noqa: F401  brings its own BLAS
    from threadpoolctl import ThreadpoolController
    return ThreadpoolController()


def _forked():
    global _is_forked
    numba = sys.modules.get("numba")
    with contextlib.suppress(AttributeError, ValueError):  # no layer yet: no kernel has run
        _is_forked = _is_forked or numba.threading_layer() == "omp"


_is_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def refuse_forked():
    """GNU OpenMP kills a forked child of a process that has used it at its first kernel: a RuntimeError before that."""
    if _is_forked:
        raise RuntimeError("this process was forked from one that had used pmapde already, and OpenMP cannot go on in "
                           "it: start workers with multiprocessing.get_context('spawn'), or fork before the first use.")


@contextlib.contextmanager
def thread_settings(threads):
    """Within: numba on ``threads`` threads; restored after."""
    refuse_forked()
    import numba
    before, told = numba.get_num_threads(), (getattr(_told, "count", None), getattr(_told, "most", None))
    try:
        count = checked_threads(threads)
        _told.count, _told.most = 0, count
        yield count
    finally:
        if _told.count not in (0, before):
            numba.set_num_threads(before)
        _told.count, _told.most = told


def in_parts(work, length, size):
    """Call ``work`` on slices that make up ``range(length)``: for functions of libraries that compute without Python's
    lock, on an array of ``size`` elements; as many at a time as numba may have threads."""
    parts = min(length, getattr(_told, "most", None) or checked_threads(None)) if size >= IN_PARTS_FROM else 1
    ends = [length * part // parts for part in range(parts + 1)]
    slices = [slice(first, last) for first, last in zip(ends, ends[1:])]
    if parts == 1:
        work(slices[0])
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, slices))
