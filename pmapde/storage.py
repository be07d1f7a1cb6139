"""Results on disk: one .npz file, arrays and a JSON header, written atomically, never pickled."""
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
from .solution import Solution, plain
from .status import Status
from .transport import PiecewiseAffineMap

FORMAT = "pmapde solution 2"
TRAJECTORY = "pmapde trajectory 1"
_SCALARS = ("scheme", "cost", "cost_error", "map_error", "algebraic_error", "extrapolation", "residual", "tolerance",
            "drift", "margin", "narrow_mass", "folded_mass", "push_forward_error")


def _grid_header(grid):
    return {"shape": list(grid.shape), "box": [list(pair) for pair in grid.box], "periodic": list(grid.periodic)}


def _problem_header(problem):
    return {"grid": _grid_header(problem.grid), "target_grid": _grid_header(problem.target_grid),
            "floor": problem.floor, "interpolation": problem.target.interpolation,
            "source_log_mass": problem.source_log_mass, "target_log_mass": problem.target_log_mass}


def _with_suffix(path):
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def save(solution, path):
    """Write ``solution`` to ``path`` (.npz appended if missing);
    an existing file is replaced only when all is written."""
    problem = solution.problem
    header = {"format": FORMAT, "status": solution.status.name, **_problem_header(problem),
              "stats": solution.stats, **{name: plain(getattr(solution, name)) for name in _SCALARS}}
    arrays = {"source": problem.source_values, "target": problem.target_values, "phi": solution.displacement_potential,
              "displacement": solution.displacement, "potential": solution.potential,
              **{f"history_{name}": values for name, values in solution.history.items()}}
    _write(_with_suffix(path), header, arrays)


def save_trajectory(trajectory, path):
    """The same for a :class:`Trajectory`."""
    problem, ledger = trajectory.problem, trajectory.ledger
    header = {"format": TRAJECTORY, "status": trajectory.status.name, **_problem_header(problem),
              "scheme": trajectory.scheme, "error_estimate": trajectory.error_estimate, "drift": trajectory.drift,
              "stats": plain(trajectory.stats),
              "ledger": None if ledger is None else [ledger.kind, ledger.initial_bregman, ledger.half_cost]}
    arrays = {"source": problem.source_values, "target": problem.target_values, "times": trajectory.times,
              "phi": trajectory.displacement_potentials, "log_ratio": trajectory.log_ratios,
              **{f"history_{name}": values for name, values in trajectory.history.items()}}
    if ledger is not None:
        arrays.update({f"ledger_{name}": values for name, values in ledger.columns.items()})
    _write(_with_suffix(path), header, arrays)


def _write(path, header, arrays):
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
    """Read a :class:`Solution` or :class:`Trajectory` written by its ``save``.

    A target that was a LogDensity comes back as its values on the target grid.

    Raises
    ------
    ValueError
        If the file is not a complete result of this format.

    Examples
    --------
    >>> import numpy as np, pmapde, tempfile, os
    >>> solution = pmapde.solve(pmapde.TransportProblem(np.ones((16, 16)), np.ones((16, 16))))
    >>> path = os.path.join(tempfile.mkdtemp(), "identity.npz")
    >>> solution.save(path)
    >>> pmapde.load(path).cost == solution.cost
    True
    """
    path = _with_suffix(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if header["format"] not in (FORMAT, TRAJECTORY):
                raise ValueError(f"format {header['format']!r}, expected {FORMAT!r} or {TRAJECTORY!r}")
            arrays = {name: file[name] for name in file.files if name != "header"}
        return (_rebuilt if header["format"] == FORMAT else _rebuilt_trajectory)(header, arrays)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"`path` {os.fspath(path)!r} is not a solution or trajectory saved by pmapde "
                         f"({error}).") from None


def _rebuilt_problem(header, arrays):
    grids = [Grid(**header[name]) for name in ("grid", "target_grid")]
    problem = TransportProblem(GridDensity(arrays["source"], grids[0]),
                               GridDensity(arrays["target"], grids[1], header["interpolation"]))
    problem.source_values = arrays["source"]  # normalising twice would change the last bits
    problem.floor = header["floor"]
    problem.source_log_mass, problem.target_log_mass = header["source_log_mass"], header["target_log_mass"]
    return problem


def _prefixed(arrays, prefix):
    return {name[len(prefix):]: values for name, values in arrays.items() if name.startswith(prefix)}


def _rebuilt(header, arrays):
    problem, displacement = _rebuilt_problem(header, arrays), arrays["displacement"]
    if displacement.shape != (problem.ndim, *problem.grid.shape) or arrays["phi"].shape != problem.grid.shape:
        raise ValueError(f"displacement of shape {displacement.shape} does not fit grid {problem.grid.shape}")
    return Solution(problem=problem, status=Status[header["status"]], displacement_potential=arrays["phi"],
                    displacement=displacement, history=_prefixed(arrays, "history_"), stats=header["stats"],
                    transport_map=PiecewiseAffineMap(problem.grid, problem.target_grid, displacement),
                    **{name: header[name] for name in _SCALARS})


def _rebuilt_trajectory(header, arrays):
    from .ledger import COLUMNS, Ledger
    from .trajectory import Trajectory  # lazily: reading a solution needs none of the flow
    problem, ledger = _rebuilt_problem(header, arrays), None
    shape = (len(arrays["times"]), *problem.grid.shape)
    if arrays["phi"].shape != shape or arrays["log_ratio"].shape != shape:
        raise ValueError(f"potentials of shape {arrays['phi'].shape} do not fit {shape}")
    if header["ledger"] is not None:
        columns = {name: arrays[f"ledger_{name}"].tolist() for name in COLUMNS}
        ledger = Ledger(*header["ledger"], [dict(zip(columns, row)) for row in zip(*columns.values())])
    return Trajectory(problem, Status[header["status"]], header["scheme"], arrays["times"], arrays["phi"],
                      arrays["log_ratio"], ledger, _prefixed(arrays, "history_"), header["error_estimate"],
                      header["drift"], header["stats"])
