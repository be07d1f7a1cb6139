"""Results on disk: arrays and a JSON header in one file, see :mod:`pmapde.archive`; runs that go on."""
from __future__ import annotations

import math
import os
from pathlib import Path

from . import archive
from .checkpoint import Checkpoint, stored_run
from .plan import SinkhornPlan
from .solution import Solution, at_centres, plain
from .status import Status
from .transport import PiecewiseAffineMap

FORMAT = "pmapde solution 6"
PLAN = "pmapde sinkhorn plan 2"
TRAJECTORY = "pmapde trajectory 2"
DESCENT = "pmapde mirror descent 1"
_SCALARS = ("scheme", "cost", "cost_error", "map_error", "algebraic_error", "extrapolation", "residual", "tolerance",
            "drift", "margin", "narrow_mass", "folded_mass", "straightened_mass", "push_forward_error", "subdivision",
            "swapped", "blur")


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
    ledger, columns = _packed_ledger(trajectory.ledger)
    _write(path, trajectory,
           {"format": TRAJECTORY, "scheme": trajectory.scheme, "error_estimate": trajectory.error_estimate,
            "drift": trajectory.drift, "ledger": ledger},
           {"times": trajectory.times, "phi": trajectory.displacement_potentials, "log_ratio": trajectory.log_ratios,
            **columns})


def save_run(run, path):
    """The same for a :class:`MirrorRun`."""
    ledger, columns = _packed_ledger(run.ledger)
    _write(path, run, {"format": DESCENT, "scheme": run.scheme, "shortened": run.shortened, "ledger": ledger},
           {"phi": run.displacement_potential, "log_ratio": run.log_ratio, "etas": run.etas, "limits": run.limits,
            **columns})


def _packed_ledger(ledger):
    if ledger is None:
        return None, {}
    return ([ledger.kind, ledger.initial_bregman, ledger.half_cost],
            {f"ledger_{name}": values for name, values in ledger.columns.items()})


def _write(path, result, header, arrays):
    problem, fields = archive.packed_problem(result.problem)
    history = getattr(result, "history", {})
    archive.write(_with_suffix(path),
                  {"status": result.status.name, "problem": problem, "stats": plain(result.stats), **header},
                  {**fields, **arrays, **{f"history_{name}": values for name, values in history.items()}})


def load(path):
    """Read a :class:`Solution`, :class:`Trajectory`, :class:`MirrorRun` or :class:`SinkhornPlan` written by its
    ``save``.

    A target that was a LogDensity comes back as its values on the target grid.

    Raises
    ------
    ValueError
        If the file is not a complete result of this format: its checksum, names, sizes and types are checked before
        anything is taken from it, nothing is unpickled or unpacked, and no more memory is used than twice its size.

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
    header, arrays = archive.read(path, tuple(_READERS), "a result saved by pmapde")
    try:
        return _READERS[header["format"]](archive.rebuilt_problem(header["problem"], arrays), header, arrays)
    except Exception as error:  # of any kind: the file is whole, but may have been made by anybody
        raise archive.refusal(path, "a result saved by pmapde", error) from None


def resume(path, *, problem=None, schedule=None, exact_map=None, callback=None, threads=None, every=30.0,
           max_seconds=math.inf, throw=False):
    """Go on with the run of a checkpoint file: :func:`pmapde.solve`, :func:`pmapde.flow` or
    :func:`pmapde.mirror_descent` with the arguments, the problem among them, that it was called with.

    The result is, to the last bit, that of a run that was never interrupted.

    Parameters
    ----------
    path : str or path-like
        The file of a :class:`~pmapde.checkpoint.Checkpoint`.
    problem : TransportProblem, optional
        Needed where source or target were functions (:class:`LogDensity`), which no file holds: the same problem again.
        Another one is refused by its values and gradients at the cells.
    schedule, exact_map : callable, optional
        Those of the run, where it had any. A schedule that would have made other steps is refused.
    callback, threads, max_seconds, throw
        As in the function that is called.
    every : float
        Seconds between checkpoints from now on.

    Returns
    -------
    Solution, Trajectory or MirrorRun

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is not a whole checkpoint, or a function is missing or is another one.
    """
    import pmapde
    kind, arguments, stored, note, functions = stored_run(path)
    given = {name: value for name, value in (("schedule", schedule), ("exact_map", exact_map)) if value is not None}
    missing = [name for name in functions if name != "`problem`" and name.strip("`") not in given]
    if problem is None and "`problem`" in functions:
        missing.insert(0, "`problem`")
    if missing:
        raise ValueError(f"`path` {os.fspath(path)!r} is of a run with functions, which no file holds: pass the same "
                         f"{' and '.join(missing)} again.")
    return getattr(pmapde, kind)(stored if problem is None else problem, **{**arguments, **given}, callback=callback,
                                 threads=threads, max_seconds=max_seconds, throw=throw,
                                 checkpoint=Checkpoint(path, every, note))


def _prefixed(arrays, prefix):
    return {name[len(prefix):]: values for name, values in arrays.items() if name.startswith(prefix)}


def _rebuilt(problem, header, arrays):
    fine = problem.grid.with_shape([n * header["subdivision"] for n in problem.grid.shape])
    phi = archive.field(arrays["phi"], problem.grid.shape)
    displacement = archive.field(arrays["displacement"], (problem.ndim, *fine.shape))
    transport_map = PiecewiseAffineMap(fine, problem.target_grid, displacement)
    return Solution(problem=problem, status=Status[header["status"]], displacement_potential=phi,
                    displacement=at_centres(transport_map, problem.grid), history=_prefixed(arrays, "history_"),
                    stats=header["stats"], transport_map=transport_map,
                    **{name: header[name] for name in _SCALARS})


def _rebuilt_plan(problem, header, arrays):
    phi, psi = (archive.field(arrays[name], grid.shape) for name, grid in (("phi", problem.grid),
                                                                           ("psi", problem.target_grid)))
    return SinkhornPlan(problem, header["epsilon"], Status[header["status"]], phi, psi,
                        _prefixed(arrays, "history_"), header["stats"])


def _rebuilt_ledger(header, arrays):
    from .ledger import COLUMNS, Ledger  # lazily: reading a solution needs none of the flow
    if header["ledger"] is None:
        return None
    columns = {name: arrays[f"ledger_{name}"].tolist() for name in COLUMNS}
    return Ledger(*header["ledger"], [dict(zip(columns, row)) for row in zip(*columns.values())])


def _rebuilt_trajectory(problem, header, arrays):
    from .trajectory import Trajectory
    shape = (len(arrays["times"]), *problem.grid.shape)
    phi, log_ratio = (archive.field(arrays[name], shape) for name in ("phi", "log_ratio"))
    return Trajectory(problem, Status[header["status"]], header["scheme"], arrays["times"], phi, log_ratio,
                      _rebuilt_ledger(header, arrays), _prefixed(arrays, "history_"), header["error_estimate"],
                      header["drift"], header["stats"])


def _rebuilt_run(problem, header, arrays):
    from .mirror import MirrorRun
    phi, log_ratio = (archive.field(arrays[name], problem.grid.shape) for name in ("phi", "log_ratio"))
    etas, limits = (archive.field(arrays[name], (len(arrays["etas"]),)) for name in ("etas", "limits"))
    return MirrorRun(problem, Status[header["status"]], header["scheme"], phi, log_ratio, etas, limits,
                     header["shortened"], _rebuilt_ledger(header, arrays), header["stats"])


_READERS = {FORMAT: _rebuilt, PLAN: _rebuilt_plan, TRAJECTORY: _rebuilt_trajectory, DESCENT: _rebuilt_run}
