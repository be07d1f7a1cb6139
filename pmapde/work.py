"""Work units: the relative costs of the kernels, in applications of the linearised operator on the same grid.

Measured by ``benchmarks/bench_kernels.py`` and rounded; they turn counts into work that does not depend on the machine.
"""

RESIDUAL = 1.0
"""Residual of the linear equation, and adding a correction to the total."""
EVALUATION = {2: 3.0, 3: 1.5}
"""The operator at a potential, with or without linearisation, by dimension."""
MONOTONE_3D = 50.0
"""More for the monotone determinant in 3D: on smooth potentials, timed aside of that benchmark."""
SUPERBASE = 3.0
"""More for every superbase where they leave the 3x3 stencil."""
TARGET = {2: 4.0, 3: 3.0}
"""Interpolating the target and its gradient once for every cell."""
AVERAGE = {2: 7.0, 3: 5.0}
"""Averaging it over the images of the cells, with the derivatives of the average."""


def book(ledger, shape, applications):
    """Add ``applications`` (of the operator, on a grid of ``shape``) to ``ledger``, a dict by grid shape."""
    cells = 1
    for n in shape:
        cells *= n
    name = "x".join(map(str, shape))
    ledger[name] = ledger.get(name, 0.0) + applications * cells


def in_units(ledger, cells):
    """The ledger in work units of a finest grid of ``cells`` cells."""
    return {name: round(amount / cells, 4) for name, amount in ledger.items()}
