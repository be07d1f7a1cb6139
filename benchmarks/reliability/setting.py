"""Problems of the trials, and processes that run them."""
import subprocess
import sys
from pathlib import Path

import numpy as np
from random_fields import pair

import pmapde

ROOT = Path(__file__).resolve().parents[2]


def smooth(n, ndim=2):
    x = (np.arange(n) + 0.5) / n
    return pmapde.TransportProblem(sum(np.meshgrid(*[x] * ndim, indexing="ij")) + 1, np.ones((n,) * ndim))


def rough(kind="microscopy", shape=(16, 16), contrast=1e3, seed=0):
    return pmapde.TransportProblem(*pair(kind, shape, contrast, seed))


def child(*arguments, code, **settings):
    """A Python process that runs ``code`` with the package and the benchmarks on its path."""
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]\n"
    return subprocess.Popen([sys.executable, "-c", paths + code, *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **settings)
