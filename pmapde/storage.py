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
from .plan import SinkhornPlan
from .problem import TransportProblem
from .solution import Solution, at_centres, plain
from .status import Status
from .transport import PiecewiseAffineMap

FORMAT = "pmapde solution 3"
PLAN = "pmapde sinkhorn plan 1"
TRAJECTORY = "pmapde trajectory 1"
_SCALARS = ("scheme", "cost", "cost_error", "map_error", "algebraic_error", "extrapolation", "residual", "tolerance",
            "drift", "margin", "narrow_mass", "folded_mass", "straightened_mass", "push_forward_error", "subdivision",
            "swapped")


def _grid_header(grid):
    return {"shape": list(grid.shape), "box": [list(pair) for pair in grid.box], "periodic": list(grid.periodic)}


def _with_suffix(path):
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def save(solution, path):
    """Write ``solution`` to ``path`` (.npz appended if missing);
    an existing file is replaced only when all is written."""
    _write(path, solution, {"format": FORMAT, **{name: plain(getattr(solution, name)) for name in _SCALARS}},
           {"phi": solution.displacement_potential, "displacement": solution.transport_map.displacement,
            "potential": solution.potential})


def save_plan(plan, path):
    """The same for a :class:`SinkhornPlan`."""
    _write(path, plan, {"format": PLAN, "epsilon": plan.epsilon},
           {"phi": plan.displacement_potential, "psi": plan.dual_displacement_potential,
            "potential": plan.potential, "dual_potential": plan.dual_potential})


def save_trajectory(trajectory, path):
    """The same for a :class:`Trajectory`."""
    ledger = trajectory.ledger
    columns = {} if ledger is None else {f"ledger_{name}": values for name, values in ledger.columns.items()}
    _write(path, trajectory,
           {"format": TRAJECTORY, "scheme": trajectory.scheme, "error_estimate": trajectory.error_estimate,
            "drift": trajectory.drift,
            "ledger": None if ledger is None else [ledger.kind, ledger.initial_bregman, ledger.half_cost]},
           {"times": trajectory.times, "phi": trajectory.displacement_potentials, "log_ratio": trajectory.log_ratios,
            **columns})


def _write(path, result, header, arrays):
    path, problem = _with_suffix(path), result.problem
    header = {"status": result.status.name, "grid": _grid_header(problem.grid),
              "target_grid": _grid_header(problem.target_grid), "floor": problem.floor,
              "interpolation": problem.target.interpolation,
              "source_log_mass": problem.source_log_mass, "target_log_mass": problem.target_log_mass,
              "stats": plain(result.stats), **header}
    arrays = {"source": problem.source_values, "target": problem.target_values, **arrays,
              **{f"history_{name}": values for name, values in result.history.items()}}
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
    """Read a :class:`Solution`, :class:`Trajectory` or :class:`SinkhornPlan` written by its ``save``.

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
            if header["format"] not in _READERS:
                raise ValueError(f"format {header['format']!r}, expected one of {', '.join(map(repr, _READERS))}")
            arrays = {name: file[name] for name in file.files if name != "header"}
        return _READERS[header["format"]](header, arrays)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"`path` {os.fspath(path)!r} is not a result saved by pmapde ({error}).") from None


def _rebuilt_problem(header, arrays):
    grids = [Grid(**header[name]) for name in ("grid", "target_grid")]
    problem = TransportProblem(GridDensity(arrays["source"], grids[0]),
                               GridDensity(arrays["target"], grids[1], header["interpolation"]), floor=0.0)
    problem.source_values = arrays["source"]  # normalising twice would change the last bits
    problem.floor = header["floor"]
    problem.source_log_mass, problem.target_log_mass = header["source_log_mass"], header["target_log_mass"]
    return problem


def _prefixed(arrays, prefix):
    return {name[len(prefix):]: values for name, values in arrays.items() if name.startswith(prefix)}


def _rebuilt(header, arrays):
    problem, displacement = _rebuilt_problem(header, arrays), arrays["displacement"]
    fine = problem.grid.with_shape([n * header["subdivision"] for n in problem.grid.shape])
    if displacement.shape != (problem.ndim, *fine.shape) or arrays["phi"].shape != problem.grid.shape:
        raise ValueError(f"displacement of shape {displacement.shape} does not fit grid {problem.grid.shape}")
    transport_map = PiecewiseAffineMap(fine, problem.target_grid, displacement)
    return Solution(problem=problem, status=Status[header["status"]], displacement_potential=arrays["phi"],
                    displacement=at_centres(transport_map, problem.grid), history=_prefixed(arrays, "history_"),
                    stats=header["stats"], transport_map=transport_map,
                    **{name: header[name] for name in _SCALARS})


def _rebuilt_plan(header, arrays):
    problem = _rebuilt_problem(header, arrays)
    if arrays["phi"].shape != problem.grid.shape or arrays["psi"].shape != problem.target_grid.shape:
        raise ValueError(f"potentials of shapes {arrays['phi'].shape} and {arrays['psi'].shape} do not fit the grids")
    return SinkhornPlan(problem, header["epsilon"], Status[header["status"]], arrays["phi"], arrays["psi"],
                        _prefixed(arrays, "history_"), header["stats"])


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


_READERS = {FORMAT: _rebuilt, PLAN: _rebuilt_plan, TRAJECTORY: _rebuilt_trajectory}
