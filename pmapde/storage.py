"""Solutions on disk: one .npz file, arrays and a JSON header, written atomically, never pickled."""
from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from .density import GridDensity
from .grid import Grid
from .problem import TransportProblem
from .solution import Solution, at_centres, plain
from .status import Status
from .transport import PiecewiseAffineMap

FORMAT = "pmapde solution 3"
_SCALARS = ("scheme", "cost", "cost_error", "map_error", "algebraic_error", "extrapolation", "residual", "tolerance",
            "drift", "margin", "narrow_mass", "folded_mass", "straightened_mass", "push_forward_error", "subdivision",
            "swapped")


def _grid_header(grid):
    return {"shape": list(grid.shape), "box": [list(pair) for pair in grid.box], "periodic": list(grid.periodic)}


def save(solution, path):
    """Write ``solution`` to ``path`` (.npz appended if missing);
    an existing file is replaced only when all is written."""
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    problem = solution.problem
    header = {"format": FORMAT, "status": solution.status.name, "grid": _grid_header(problem.grid),
              "target_grid": _grid_header(problem.target_grid), "floor": problem.floor,
              "interpolation": problem.target.interpolation,
              "source_log_mass": problem.source_log_mass, "target_log_mass": problem.target_log_mass,
              "stats": solution.stats, **{name: plain(getattr(solution, name)) for name in _SCALARS}}
    arrays = {"source": problem.source_values, "target": problem.target_values, "phi": solution.displacement_potential,
              "displacement": solution.transport_map.displacement, "potential": solution.potential,
              **{f"history_{name}": values for name, values in solution.history.items()}}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0o022)  # a temporary file is private; the result gets the permissions of any other file
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path):
    """Read a :class:`Solution` written by :meth:`Solution.save`.

    A target that was a LogDensity comes back as its values on the target grid.

    Raises
    ------
    ValueError
        If the file is not a complete solution of this format.

    Examples
    --------
    >>> import numpy as np, pmapde, tempfile, os
    >>> solution = pmapde.solve(pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16))))
    >>> path = os.path.join(tempfile.mkdtemp(), "identity.npz")
    >>> solution.save(path)
    >>> pmapde.load(path).cost == solution.cost
    True
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r}, expected {FORMAT!r}")
            arrays = {name: file[name] for name in file.files if name != "header"}
        return _rebuilt(header, arrays)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"`path` {os.fspath(path)!r} is not a solution saved by pmapde ({error}).") from None


def _rebuilt(header, arrays):
    grids = [Grid(**header[name]) for name in ("grid", "target_grid")]
    problem = TransportProblem(GridDensity(arrays["source"], grids[0]),
                               GridDensity(arrays["target"], grids[1], header["interpolation"]))
    problem.source_values = arrays["source"]  # normalising twice would change the last bits
    problem.floor = header["floor"]
    problem.source_log_mass, problem.target_log_mass = header["source_log_mass"], header["target_log_mass"]
    displacement, subdivision = arrays["displacement"], header["subdivision"]
    fine = problem.grid.with_shape([n * subdivision for n in problem.grid.shape])
    if displacement.shape != (problem.ndim, *fine.shape) or arrays["phi"].shape != problem.grid.shape:
        raise ValueError(f"displacement of shape {displacement.shape} does not fit grid {problem.grid.shape}")
    history = {name[len("history_"):]: values for name, values in arrays.items() if name.startswith("history_")}
    transport_map = PiecewiseAffineMap(fine, problem.target_grid, displacement)
    return Solution(problem=problem, status=Status[header["status"]], displacement_potential=arrays["phi"],
                    displacement=at_centres(transport_map, problem.grid), history=history, stats=header["stats"],
                    transport_map=transport_map,
                    **{name: header[name] for name in _SCALARS})
