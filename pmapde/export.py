"""Results for other programs, optional parts: VTK images (ParaView, VisIt) and labelled arrays (xarray, netCDF)."""
from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from .grid import Grid
from .solution import Solution

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # it is written into XML as it is
SIDES = ("source", "target")


def required(package):
    """The package of the extra ``export``, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"exporting needs {package.partition('.')[0]}: python -m pip install "
                          f"'pmapde[export]'.") from None


def save_vti(fields, path, *, side="source", grid=None):
    """Write fields to a VTK image file (.vti, binary, float64), which ParaView and VisIt open.

    Values are cell data: what pmapde computes are cell averages and values at cell centres. In two dimensions the image
    is one cell thick. The file is replaced as a whole or not at all. Needs pyevtk, extra ``export``.

    Parameters
    ----------
    fields : Solution or dict
        Of a :class:`Solution` the ``source`` side has ``source``, ``potential``, ``displacement_potential`` and the
        vectors ``displacement``; the ``target`` side has ``target``, ``dual_potential`` and ``push_forward``. Anything
        else by name: arrays of shape ``(*shape)``, or ``(d, *shape)`` for vectors.
    path : str or path-like
        ``.vti`` is added where it is missing.
    side : {"source", "target"}
        Which of the two grids of a solution.
    grid : Grid, optional
        Where the cells of a dict are; needed with one.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    TypeError, ValueError
        One sentence naming the argument.
    ImportError
        Without pyevtk.

    Examples
    --------
    >>> import numpy as np, pmapde, tempfile, os
    >>> solution = pmapde.solve(pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16))))
    >>> folder = tempfile.mkdtemp()
    >>> pmapde.save_vti(solution, os.path.join(folder, "identity")).name
    'identity.vti'
    >>> half = {"density": solution.interpolate(0.5)}
    >>> path = pmapde.save_vti(half, os.path.join(folder, "half"), grid=solution.problem.grid)
    """
    if isinstance(fields, Solution):
        if grid is not None:
            raise ValueError("`grid` is for a dict of arrays; a Solution has its own, chosen by `side`.")
        grid, fields = _side(fields, side)
    elif not isinstance(fields, dict) or not fields:
        raise TypeError(f"`fields` must be a Solution or a dict of arrays by name, got {fields!r:.60}.")
    elif not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be the pmapde.Grid of the arrays in `fields`, got {type(grid).__name__}.")
    data = {_checked_name(name): _cell_data(name, np.asarray(values, np.float64), grid)
            for name, values in fields.items()}
    vtk = required("pyevtk.vtk")
    flat = 3 - grid.ndim
    cells = (*grid.shape, *(1,) * flat)
    path = Path(path)
    path = path if path.suffix == ".vti" else path.with_name(path.name + ".vti")
    folder = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        # not pyevtk's imageToVTK: it takes a spacing below 1e-8 for a missing axis. Python's floats, for it writes repr
        file = vtk.VtkFile(os.path.join(folder, path.stem), vtk.VtkImageData)
        file.openGrid(start=(0, 0, 0), end=cells, origin=(*grid.lower.tolist(), *(0.0,) * flat),
                      spacing=(*grid.spacing.tolist(), *(float(grid.spacing.min()),) * flat))
        file.openPiece(start=(0, 0, 0), end=cells)
        file.openData("Cell")
        for name, values in data.items():
            file.addData(name, values)
        file.closeData("Cell")
        file.closePiece()
        file.closeGrid()
        for values in data.values():
            file.appendData(values)
        file.save()
        with open(file.getFileName(), "rb+") as written:
            os.fsync(written.fileno())
        os.replace(file.getFileName(), path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def to_xarray(solution):
    """A :class:`Solution` as an ``xarray.Dataset``: fields with their coordinates, and the evidence as attributes.

    Dimensions ``x, y[, z]`` are the source's cell centres, ``target_x, target_y[, target_z]`` the target's, ``axis``
    the components of ``displacement``. ``to_xarray(solution).to_netcdf("solution.nc", engine="scipy")`` writes netCDF
    with no other package than scipy. A file that is to become a solution again is written by :meth:`Solution.save`.
    Needs xarray, extra ``export``.

    Parameters
    ----------
    solution : Solution

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    TypeError
        For anything but a Solution.
    ImportError
        Without xarray.

    Examples
    --------
    >>> import numpy as np, pmapde
    >>> solution = pmapde.solve(pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16))))
    >>> pmapde.to_xarray(solution).potential.sel(x=0.5, y=0.5, method="nearest").size
    1
    """
    if not isinstance(solution, Solution):
        raise TypeError(f"`solution` must be a Solution, got {type(solution).__name__}.")
    xarray = required("xarray")
    variables, coordinates = {}, {}
    for side in SIDES:
        grid, fields = _side(solution, side)
        dimensions = tuple(f"target_{axis}" if side == "target" else axis for axis in "xyz"[:grid.ndim])
        coordinates |= {name: grid.centres(axis) for axis, name in enumerate(dimensions)}
        for name, values in fields.items():
            variables[name] = (dimensions if values.ndim == grid.ndim else ("axis", *dimensions), values)
    coordinates["axis"] = list("xyz"[:solution.problem.ndim])
    facts = {name: int(value) if isinstance(value, bool) else value for name, value in solution.summary().items()
             if isinstance(value, (bool, int, float, str))}  # what netCDF can hold
    return xarray.Dataset(variables, coordinates, {**facts, "title": str(solution.problem)})


def _side(solution, side):
    """``(grid, fields)`` of one side of a solution."""
    problem = solution.problem
    if side == "source":
        return problem.grid, {"source": problem.source_values, "potential": solution.potential,
                              "displacement_potential": solution.displacement_potential,
                              "displacement": solution.displacement}
    if side == "target":
        return problem.target_grid, {"target": problem.target_values, "dual_potential": solution.dual_potential,
                                     "push_forward": solution.push_forward()}
    raise ValueError(f"`side` must be 'source' or 'target', got {side!r}.")


def _checked_name(name):
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"names in `fields` must be letters, digits and underscores, got {name!r}.")
    return name


def _cell_data(name, values, grid):
    """As VTK has it: first axis fastest, three axes, three components."""
    vector = values.ndim == grid.ndim + 1 and len(values) == grid.ndim
    if values.shape[vector:] != grid.shape:
        raise ValueError(f"`fields[{name!r}]` must be of shape {grid.shape} or {(grid.ndim, *grid.shape)}, got "
                         f"{values.shape}.")

    def ordered(component):
        return np.asfortranarray(component.reshape((*component.shape, *(1,) * (3 - grid.ndim))))

    if not vector:
        return ordered(values)
    return tuple(ordered(component) for component in (*values, *(np.zeros(grid.shape),) * (3 - grid.ndim)))
