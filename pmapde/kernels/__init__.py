"""Numba kernels; with the library of GNU OpenMP, that runs them, told how long idle threads may spin."""
import importlib
import os
from contextlib import suppress

SPIN = "1000"
"""How often idle threads look for work before they sleep, some microseconds; what the library itself takes where it has
more threads than cores. Its default is milliseconds: whoever else needs that core waits for them, and they in turn at
the end of every kernel (``benchmarks/bench_busy.py``)."""

if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = SPIN
    with suppress(ImportError):
        importlib.import_module("numba.np.ufunc.omppool")  # it is read while this is loaded, no thread starts
    del os.environ["GOMP_SPINCOUNT"]
