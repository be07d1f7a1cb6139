"""Runs that can be killed: their state on disk, written every now and then, and going on from it to the same bits."""
from __future__ import annotations

import copy
import hashlib
import os
import time
import warnings
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path

import numpy as np

from . import archive
from .density import GridDensity
from .integrators import ESDIRK3, TRBDF2, BackwardEuler
from .linear.algebraic import AlgebraicMultigrid
from .linear.black_box import BlackBoxMultigrid
from .linear.direct import Direct
from .linear.geometric import GeometricMultigrid
from .linear.solver import Automatic
from .linear.spectral import Spectral
from .newton import Newton
from .status import Status
from .stepping import PseudoTransient

FORMAT = "pmapde checkpoint 1"
_WHAT = "a checkpoint of pmapde"
_KINDS = ("solve", "flow", "mirror_descent")
_SETTINGS = {settings.__name__: settings for settings in (
    PseudoTransient, Newton, BackwardEuler, TRBDF2, ESDIRK3, Automatic, GeometricMultigrid, BlackBoxMultigrid,
    AlgebraicMultigrid, Spectral, Direct)}


@dataclass(frozen=True)
class Checkpoint:
    """Where, and how often, a run writes down what it needs to go on: the ``checkpoint=`` of :func:`pmapde.solve`,
    :func:`pmapde.flow` and :func:`pmapde.mirror_descent`.

    The file is written after the first step, after every step that ends ``every`` seconds or more after it was last
    written, and when an exception (Ctrl-C) ends the run. It is replaced as a whole or not at all, and checksummed. A
    call with the file of an earlier run goes on with that run, and ends with the same bits as one that was never
    interrupted (on the same machine, with the same versions of everything): what the solvers choose they choose from
    counts. The file of another problem, or of other settings, is refused. A run that has ended leaves its file where
    it is.

    Parameters
    ----------
    path : str or path-like
    every : float
        Seconds; 0: after every step. Writing takes about as long as copying a dozen fields to the disk.
    note : dict, optional
        Kept in the file with the rest; anything that JSON can hold.

    Raises
    ------
    TypeError, ValueError

    Examples
    --------
    >>> import numpy as np, pmapde, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "run.npz")
    >>> x = (np.arange(32) + 0.5) / 32
    >>> problem = pmapde.TransportProblem(np.add.outer(1 + x, x), np.ones((32, 32)))
    >>> first = pmapde.solve(problem, checkpoint=pmapde.Checkpoint(path), callback=lambda step: step.level == 1)
    >>> first.status.name
    'STOPPED'
    >>> pmapde.resume(path).success
    True
    """

    path: str | os.PathLike
    every: float = 30.0
    note: dict = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.path, (str, os.PathLike)) or not os.fspath(self.path):
            raise TypeError(f"`path` of a Checkpoint must be the name of a file, got {self.path!r}.")
        if not (isinstance(self.every, Real) and self.every >= 0):
            raise ValueError(f"`every` must be a number of seconds >= 0, got {self.every!r}.")


class Run:
    """A run with its file; a context in which the last state is written when an exception goes through.

    Parameters
    ----------
    checkpoint : Checkpoint
    kind : {"solve", "flow", "mirror_descent"}
    problem : TransportProblem
    settings : dict
        The arguments that decide the result, by name.
    limits : dict
        Those that only decide where it ends: not compared.

    Attributes
    ----------
    state : tree or None
        What :meth:`keep` was given before the run was interrupted (see :func:`pmapde.archive.flattened`).
    """

    def __init__(self, checkpoint, kind, problem, settings, limits):
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(f"`checkpoint` must be a pmapde.Checkpoint, got {type(checkpoint).__name__}.")
        self.path, self.every, self.state, self._unwritten = Path(checkpoint.path), float(checkpoint.every), None, False
        header, self._arrays = archive.packed_problem(problem)
        settings = {name: _packed(value, name) for name, value in settings.items()}
        self._header = {"format": FORMAT, "kind": kind, "problem": header, "fingerprint": _fingerprint(problem),
                        "functions": _functions(problem),
                        "settings": archive.flattened(settings, self._arrays), "limits": limits,
                        "note": checkpoint.note}
        self._written = None
        archive.remove_abandoned(self.path)
        if self.path.exists():
            self.state, self._written = self._found(settings), time.monotonic()

    def _found(self, settings):
        header, arrays = archive.read(self.path, (FORMAT,), _WHAT)
        try:
            before = archive.unflattened(header["settings"], arrays)
            differing = [] if header["kind"] == self._header["kind"] else ["the kind of run"]
            differing += [] if header["fingerprint"] == self._header["fingerprint"] else ["the problem"]
            differing += [f"`{name}`" for name, value in settings.items() if not _same(value, before.get(name))]
            state = archive.unflattened(header["state"], arrays)
        except Exception as error:  # of any kind: the file is whole, but may have been made by anybody
            raise archive.refusal(self.path, _WHAT, error) from None
        if differing:
            verb = "differs" if len(differing) == 1 else "differ"
            raise ValueError(f"`checkpoint` {os.fspath(self.path)!r} is of another run ({', '.join(differing)} "
                             f"{verb}): pass what that run was given, or another path, or remove the file.")
        return state

    def keep(self, state):
        """Take the state after a step, and write it if it is time to. Its arrays must not change later."""
        self.state, self._unwritten = state, True
        if self._written is not None and time.monotonic() - self._written < self.every:
            return
        try:
            self._write()
        except OSError as error:
            if self._written is None:  # better now than after a day
                raise OSError(f"`checkpoint` {os.fspath(self.path)!r} cannot be written ({error.strerror}).") from None
            warnings.warn(f"the checkpoint {os.fspath(self.path)!r} could not be written ({error.strerror}): the one "
                          f"before stays, the next is tried {self.every:g} s from now.", RuntimeWarning, stacklevel=3)
        self._written = time.monotonic()

    def _write(self):
        arrays = dict(self._arrays)
        archive.write(self.path, {**self._header, "state": archive.flattened(self.state, arrays)}, arrays)
        self._unwritten = False

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and self._unwritten:
            with suppress(OSError):  # the error that ends the run is the one to tell
                self._write()

    def refused(self, error):
        """The sentence for a state that does not fit the run it is said to be of."""
        return archive.refusal(self.path, _WHAT, error)


def _packed(value, name):
    """Settings as a tree: dataclasses of the package by their name and fields; other objects are refused."""
    if _SETTINGS.get(type(value).__name__) is type(value):
        return {"class": type(value).__name__,
                **{item.name: _packed(getattr(value, item.name), name) for item in fields(value)}}
    if isinstance(value, (list, tuple)):
        return [_packed(item, name) for item in value]
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic)):
        return value
    if callable(value):
        return "a function"  # to be given again
    raise TypeError(f"a checkpoint cannot keep `{name}`: it knows pmapde's own settings only, got "
                    f"{type(value).__name__}.")


def unpacked(value):
    """Settings again from what :func:`_packed` made of them."""
    if isinstance(value, dict):
        return _SETTINGS[value["class"]](**{name: unpacked(item) for name, item in value.items() if name != "class"})
    return tuple(unpacked(item) for item in value) if isinstance(value, list) else value


def _same(first, second):
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(first, second) if first is not None and second is not None else False
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second


def _functions(problem):
    """The sides of a problem that are functions."""
    return [name for name, is_function in (("source", problem.source_is_function), (
        "target", not isinstance(problem.target, GridDensity))) if is_function]


def _fingerprint(problem):
    """SHA-256 of all that decides a run on ``problem``; of a target that is a function, its values and gradients at the
    cell centres of the target grid."""
    total = hashlib.sha256(repr((problem.grid, problem.target_grid, problem.floor, problem.target.interpolation,
                                 problem.source_log_mass, problem.target_log_mass, _functions(problem))).encode())
    values = [problem.source_values, problem.target_values]
    if not isinstance(problem.target, GridDensity):
        centres = problem.target_grid.cell_centres().reshape(problem.ndim, -1)
        values += problem.target.log_density_by_component(centres, True)
    for array in values:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def stored_run(path):
    """``(kind, arguments, problem or None, note, names of functions)`` of the run in a checkpoint: the arguments by
    name, functions left out; the problem, unless it has functions."""
    header, arrays = archive.read(path, (FORMAT,), _WHAT)
    try:
        if header["kind"] not in _KINDS:
            raise ValueError(f"no run of the kind {header['kind']!r}")
        settings = archive.unflattened(header["settings"], arrays)
        functions = [f"`{name}`" for name, value in settings.items() if isinstance(value, str)
                     and value == "a function"]
        arguments = {name: unpacked(value) for name, value in settings.items() if f"`{name}`" not in functions}
        if header["functions"]:
            problem = None
            functions.insert(0, "`problem`")
        else:
            problem = archive.rebuilt_problem(header["problem"], arrays)
        return header["kind"], {**arguments, **header["limits"]}, problem, header["note"], functions
    except Exception as error:  # of any kind: the file is whole, but may have been made by anybody
        raise archive.refusal(path, _WHAT, error) from None


class Journal:
    """The engine's work on one grid after another, as :func:`pmapde.solve` does it.

    What happens between the grids (starts, checks, corrections, fall-backs) is cheap and repeats itself; so a resumed
    run goes through all of it again, and is given what each grid yielded instead of computing it. Only the last grid
    goes on, from its last step. Without a run nothing is recorded.

    Attributes
    ----------
    replaying : bool
        Whether the interrupted run's steps are being yielded again, the last one excepted.
    """

    def __init__(self, run=None):
        self.run, self._position = run, 0
        try:
            self._grids = [] if run is None or run.state is None else list(run.state["grids"])
        except (KeyError, TypeError) as error:
            raise run.refused(error) from None
        self.replaying = bool(self._grids)

    def next_grid(self, grid, stats, linear, memory):
        """Generate what the next grid yielded before the run was interrupted, as arguments of a step without its place;
        the potential only of the last one, when ``stats``, ``linear`` and ``memory`` are as they were."""
        self._position += 1
        if self._position > len(self._grids):
            self._grids.append({"records": []})
            return
        found, newest = self._grids[self._position - 1], self._position == len(self._grids)
        try:
            *records, last = [{**record, "status": record["status"] and Status[record["status"]]}
                              for record in found["records"]]
            last["phi"] = archive.field(found["phi"], grid.shape)
            for record in records:
                yield {**record, "phi": None}
            restore_stats(stats, found["stats"])
            linear.restore(found["linear"], grid)
            memory.update(found["memory"] or {})
        except (KeyError, TypeError, ValueError) as error:
            raise self.run.refused(error) from None
        self.replaying = not newest
        yield last

    def add(self, step, stats, linear, memory):
        """Book a step of the current grid."""
        if self.run is None:
            return
        record = {name: getattr(step, name) for name in _RECORDED}
        record["status"] = step.status and step.status.name
        # of the steps before only the numbers; of the grids before neither memory nor a kept preconditioner
        if len(self._grids) > 1:
            before = self._grids[-2]
            self._grids[-2] = {**before, "memory": None, "linear": {**before["linear"], "kept": None}}
        self._grids[-1] = {"records": [*self._grids[-1]["records"], record], "phi": step.phi, "memory": dict(memory),
                           "stats": copy.deepcopy(stats), "linear": linear.state()}
        self.run.keep({"grids": list(self._grids)})


_RECORDED = ("residual", "drift", "error", "change", "time", "dt", "newton_iterations", "damping", "rejected",
             "applications", "tolerance")


def restore_stats(stats, kept):
    """Put the counters ``kept`` in the place of those in ``stats``, the same dict."""
    stats.clear()
    stats.update(copy.deepcopy(kept))
    stats["seconds"] = defaultdict(float, stats["seconds"])
