"""Error against time and against sweeps: our solver, our Sinkhorn and the peers on the same arrays, in one run.

An answer is checked before it is timed: a map that is not finite, or further from the truth than half of what standing
still is, is WRONG and has no time. Times are the best of a few calls after the first and leave out imports, compilation
and what can be prepared: wall time (``wall``), and ``seconds``, by which everything is compared: on one thread
processor time, which others on the machine disturb less, else the same. ``first`` is the first call, whatever it had to
compile. A call beyond the limit is ended and said so; larger grids are then left out for that setting. Every solver has
a process of its own, pinned to as many cores as threads.
"""
from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import platform
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version

from . import peers
from .references import FAMILIES

MEASURES = {"map": "map error", "cost": "cost error", "masses": "misplaced"}
GOALS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
AIM = {"family": "gaussians", "n": 256, "goal": 2e-4}
"""The problem, grid and relative error of W2^2 at which :func:`aim` sets solver and Sinkhorn against each other."""
CALLS = 5
IMPORTS = 120.0
"""Seconds a process may take to import its packages, and to compile at its first call."""
COMPILATION = 15.0
"""Seconds granted to every setting beyond twice the limit: some compile at their first call."""
QUICK = {"families": ("cosine", "contrast", "photographs", "zeros", "cosine3d"), "limit": 1.5, "budget": 0.1}
FULL = {"families": tuple(FAMILIES), "limit": 5.0, "budget": 0.3}


# Measuring


def measure(call, case, setting, budget):
    """The figures of one row: solve, check, and only then time."""
    begin = time.perf_counter()
    answer = call(**setting)
    first = time.perf_counter() - begin
    errors = dict(zip(MEASURES.values(), case.errors(answer)))
    figures = {"seconds": math.nan, "wall": math.nan, "first": first, "sweeps": answer.sweeps, **errors,
               "marginal": answer.marginal}
    if not errors["map error"] < 0.5:
        return {**figures, "outcome": f"WRONG{', ' * bool(answer.remark)}{answer.remark.strip()}"}
    wall, processor, spent = math.inf, math.inf, 0.0
    for k in range(CALLS):
        if k and (spent + wall > budget or not budget):
            break
        begin = time.perf_counter(), time.process_time()
        call(**setting)
        last = time.perf_counter() - begin[0]
        wall, processor, spent = min(wall, last), min(processor, time.process_time() - begin[1]), spent + last
    outcome = answer.remark if answer.remark.startswith("not") else f"ok{answer.remark}"
    alone = os.environ.get("NUMBA_NUM_THREADS") == "1"
    return {**figures, "seconds": processor if alone else wall, "wall": wall, "outcome": outcome}


def _failed(outcome):
    return {"seconds": math.nan, "wall": math.nan, "first": math.nan, "sweeps": 0,
            **dict.fromkeys(MEASURES.values(), math.nan), "marginal": math.nan, "outcome": outcome}


def _serve(connection, prepare, cores, budget):
    """A child: cases and settings come in; "ready" and figures go out."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    case = call = None
    while True:
        message = connection.recv()
        try:
            if message[0] == "case":
                case = message[1]
                call, answer = prepare(case.source, case.target), "ready"
            else:
                answer = measure(call, case, message[1], budget)
        except Exception as error:  # a failure is a result of the benchmark
            answer = _failed(f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:90])
        connection.send(answer)


class Runner:
    """One solver in a process of its own, which can be ended.

    Parameters
    ----------
    prepare : callable
        Of a :class:`~pmapde.peers.Solver`.
    threads : int
        And as many cores.
    limit : float
        Seconds for one call.
    budget : float
        Seconds of repeats.
    """

    def __init__(self, prepare, threads, limit, budget):
        self.prepare, self.threads, self.limit, self.budget = prepare, threads, limit, budget
        self.process = self.case = None

    def run(self, case, setting):
        """The figures of a row."""
        try:
            if self.case is not case:
                self._start()
                self.case = None
                failure = self._ask(("case", case), IMPORTS)
                if failure != "ready":
                    return failure
                self.case = case
            ndim = case.source.ndim  # each has kernels of its own to compile
            figures = self._ask(("setting", setting), 2 * self.limit + self.budget
                                + (COMPILATION if ndim in self.warm else IMPORTS))
            self.warm.add(ndim)
            return figures
        except (EOFError, BrokenPipeError):
            self.close()
            return _failed("FAILED: the process died (out of memory?)")
        except TimeoutError:
            self.close()
            return _failed(f"more than {self.limit:g} s")

    def _start(self):
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            cores = (set(sorted(os.sched_getaffinity(0))[-self.threads:]) if hasattr(os, "sched_getaffinity")
                     else None)
            self.connection, other = context.Pipe()
            self.process = context.Process(target=_serve, args=(other, self.prepare, cores, self.budget), daemon=True)
            with _threads(self.threads):
                self.process.start()
            self.warm = set()
            other.close()

    def _ask(self, message, patience):
        self.connection.send(message)
        if not self.connection.poll(patience):
            raise TimeoutError
        return self.connection.recv()

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = self.case = None


@contextmanager
def _threads(count):
    """For the start of a child; BLAS, OpenMP, numba and XLA read them when they are loaded.

    Not for longer: numba here reads them too, at its next compilation, and refuses any change.
    """
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if count > 1 else 'false'} intra_op_parallelism_threads={count}"
    settings = {**dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
                                str(count)), "XLA_FLAGS": eigen, "PYKEOPS_VERBOSE": "0", "JAX_PLATFORMS": "cpu"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(families=None, solvers=None, *, quick=True, largest=None, limit=None, threads=1, progress=None):
    """Measure; a :class:`Report`.

    Parameters
    ----------
    families : sequence of str, optional
        Of ``references.FAMILIES``; all of them, or five if ``quick``.
    solvers : dict of str to Solver, optional
        Default :func:`pmapde.peers.solvers`. Those whose packages are missing are named in the report.
    quick : bool
        Fewer problems, settings and smaller grids, for a minute or two.
    largest : int, optional
        Most cells per axis in 2D; an eighth of that, but at least 16, in 3D. Default: what the solvers say.
    limit : float, optional
        Seconds for one call.
    threads : int
    progress : callable, optional
        Called with every row.

    Raises
    ------
    ValueError
    """
    defaults = QUICK if quick else FULL
    families = tuple(defaults["families"] if families is None else families)
    if unknown := [name for name in families if name not in FAMILIES]:
        raise ValueError(f"`families` must be of {', '.join(FAMILIES)}, got {', '.join(map(repr, unknown))}.")
    limit = defaults["limit"] if limit is None else float(limit)
    if not limit > 0:
        raise ValueError(f"`limit` must be a positive time in seconds, got {limit!r}.")
    solvers = peers.solvers(quick) if solvers is None else solvers
    missing = {name: solver.missing for name, solver in solvers.items() if solver.missing}
    rows, begin = [], time.perf_counter()
    for name, solver in solvers.items():
        if name in missing:
            continue
        runner = Runner(solver.prepare, threads, limit, defaults["budget"])
        try:
            for family in families:
                for row in _family(name, solver, runner, family, largest):
                    rows.append(row)
                    if progress:
                        progress(row)
        finally:
            runner.close()
    about = {"machine": machine(), "threads": threads, "limit": limit, "seconds": time.perf_counter() - begin,
             "versions": {name: _version(name) for name in (*peers.DISTRIBUTIONS.values(), "pmapde", "numpy", "numba")}}
    return Report(rows, missing, about)


@cache
def _case(family, n):
    return FAMILIES[family].case(n)


def _family(name, solver, runner, family, largest):
    """Rows of one solver on one problem: all grids, and on each all settings still quick enough."""
    about, slow = FAMILIES[family], []
    most = math.inf if largest is None else largest if about.ndim == 2 else max(16, largest // 8)
    for n in solver.grids(about.ndim):
        if n > most or not about.fits(n):
            continue
        for setting in solver.settings:
            if setting in slow:
                continue
            case = _case(family, n)
            figures = runner.run(case, setting)
            if (figures["outcome"].startswith(("more than", "FAILED: the process", "FAILED: MemoryError"))
                    or figures["wall"] > runner.limit):
                slow.append(setting)
            yield {"problem": case.problem, "family": family, "kind": about.kind, "ndim": about.ndim, "solver": name,
                   "setting": peers.label(setting), "blur": setting.get("blur", math.nan), "grid": case.grid,
                   "cells": case.source.size, **figures, "map uncertainty": case.map_uncertainty,
                   "cost uncertainty": case.cost_uncertainty}


# What it shows


@dataclass(frozen=True, eq=False)
class Report:
    """All rows, the solvers whose packages are missing, and the circumstances."""

    rows: list
    missing: dict
    about: dict

    @cached_property
    def timed(self):
        """Rows with a time: solved, and not wrong."""
        return [row for row in self.rows if row["seconds"] > 0]

    def outcomes(self):
        """Counts of outcomes by solver: ok, not converged, WRONG, FAILED, more than the limit."""
        counts = {}
        for row in self.rows:
            word = row["outcome"].split(":")[0].split(" (")[0].split(",")[0]
            counts.setdefault(row["solver"], Counter())[word] += 1
        return {solver: dict(counter) for solver, counter in counts.items()}

    @cached_property
    def _lasting(self):
        """Per timed row, the largest errors at its setting on its grid and all finer ones."""
        found = {}
        for row in sorted(self.timed, key=lambda row: -row["cells"]):
            key = row["family"], row["solver"], row["setting"]
            before = found.get(key, {}).get("worst", dict.fromkeys(MEASURES, 0.0))
            worst = {measure: max(before[measure], row[name]) for measure, name in MEASURES.items()}
            found.setdefault(key, {}).update({"worst": worst, row["cells"]: worst})
        return found

    def reaches(self, row, measure, goal):
        """Whether a row is within the goal, and so are all finer grids at the same setting.

        The second condition shields from luck: errors of W2^2 change sign. The answer must be known well enough.
        """
        worst = self._lasting[row["family"], row["solver"], row["setting"]][row["cells"]]
        return goal >= 2 * row.get(f"{measure} uncertainty", 0.0) and worst[measure] <= goal

    def quickest(self, family, measure, goal, solver):
        """The quickest row of a solver that reaches the goal, or None."""
        return min((row for row in self.timed if row["family"] == family and row["solver"] == solver
                    and self.reaches(row, measure, goal)), key=lambda row: row["seconds"], default=None)

    def winners(self):
        """Per problem, measure and goal: seconds of every solver's quickest run that reaches it, and who wins."""
        solvers = list(dict.fromkeys(row["solver"] for row in self.rows))
        table = []
        for family in dict.fromkeys(row["family"] for row in self.rows):
            for measure in MEASURES:
                for goal in GOALS:
                    best = {solver: self.quickest(family, measure, goal, solver) for solver in solvers}
                    found = {solver: row for solver, row in best.items() if row}
                    if not found:
                        continue
                    order = sorted(found, key=lambda solver: found[solver]["seconds"])
                    first = found[order[0]]
                    line = {"problem": first["problem"], "kind": first["kind"], "of": measure, "within": goal,
                            "winner": order[0], "grid": first["grid"], "setting": first["setting"],
                            "ahead": found[order[1]]["seconds"] / first["seconds"] if order[1:] else math.inf}
                    table.append(line | {solver: best[solver]["seconds"] if best[solver] else math.nan
                                         for solver in solvers})
        return table

    def tally(self):
        """Wins by kind of problem, measure and solver."""
        counts = {}
        for line in self.winners():
            counts.setdefault(f"{line['kind']}, {line['of']}", Counter())[line["winner"]] += 1
        return {name: dict(counter.most_common()) for name, counter in counts.items()}

    def aim(self):
        """Time to W2^2 within 2e-4 on the two Gaussians, ``pmapde.solve`` against the best Sinkhorn: at 256^2, and with
        both on the grid that suits them. None where one of them was not run, or does not get there."""
        found = {}
        for where, least in (("at 256^2", AIM["n"]**2), ("any grid", 0)):
            best = {}
            for row in self.timed:
                side = {"pmapde.solve": "pmapde.solve"}.get(row["solver"], "Sinkhorn" if "inkhorn" in row["solver"]
                                                            or row["solver"] == "GeomLoss" else None)
                if (side and row["family"] == AIM["family"] and least <= row["cells"] <= AIM["n"]**2
                        and self.reaches(row, "cost", AIM["goal"])
                        and row["seconds"] < best.get(side, {"seconds": math.inf})["seconds"]):
                    best[side] = row
            if len(best) == 2:
                found[where] = {side: {name: row[name] for name in ("solver", "setting", "grid", "seconds",
                                                                    "cost error")} for side, row in best.items()}
                found[where]["ratio"] = best["Sinkhorn"]["seconds"] / best["pmapde.solve"]["seconds"]
        return found or None

    def summary(self):
        """What JSON can hold."""
        return {**self.about, "missing": {name: list(needs) for name, needs in self.missing.items()},
                "outcomes": self.outcomes(), "wins": self.tally(), "aim": self.aim(),
                "winners": [{name: value for name, value in line.items() if value == value and value != math.inf}
                            for line in self.winners()]}

    def write(self, directory):
        """``runs.csv``, ``winners.csv``, ``summary.json`` and ``table.txt``."""
        if self.rows:
            write_csv(self.rows, directory / "runs.csv")
            write_csv(self.winners(), directory / "winners.csv")
        (directory / "summary.json").write_text(json.dumps(self.summary(), indent=2, allow_nan=False) + "\n")
        (directory / "table.txt").write_text(str(self) + "\n")

    def __str__(self):
        about = self.about
        lines = [*about["machine"], f"{about['threads']} thread(s) for every solver, {about['limit']:g} s for a call, "
                 f"{about['seconds']:.0f} s in all; " + ", ".join(f"{name} {number}" for name, number
                                                                  in about["versions"].items()),
                 *(f"{solver} left out, missing: {', '.join(needs)}" for solver, needs in self.missing.items()), "",
                 "Outcomes: " + "; ".join(f"{solver}: " + ", ".join(f"{n} {word}" for word, n in counts.items())
                                          for solver, counts in self.outcomes().items()), "",
                 "Seconds to an error, by every solver's quickest run that gets there, on finer grids too:",
                 "map: L2(mu) over W2; cost: W2^2, relative; masses: fraction of the mass out of place.",
                 "'ahead': the runner-up's time over the winner's.", "", table(self.winners())]
        lines += ["Wins: " + "; ".join(f"{name}: " + ", ".join(f"{solver} {n}" for solver, n in counts.items())
                                       for name, counts in self.tally().items())]
        for where, found in (self.aim() or {}).items():
            ours, theirs = found["pmapde.solve"], found["Sinkhorn"]
            lines.append(f"Two Gaussians, W2^2 within {AIM['goal']:g}, {where}: pmapde.solve {ours['seconds']:.3g} s "
                         f"({ours['grid']}, {ours['setting']}), best Sinkhorn {theirs['seconds']:.3g} s "
                         f"({theirs['solver']}, {theirs['grid']}, {theirs['setting']}): {found['ratio']:.1f} times")
        return "\n".join(lines)


def machine():
    """One line per fact that decides the numbers."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "numba", "pyamg"))
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return [f"{model}, {os.cpu_count()} cores, {platform.system()}{load}",
            f"Python {platform.python_version()}, {packages}"]


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def table(rows):
    """Dicts with the same keys as lines of text, right-justified."""
    if not rows:
        return "(no rows)\n"
    header = list(rows[0])
    cells = [header] + [[_text(row[key]) for key in header] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths)) for line in cells) + "\n"


def _text(value):
    if isinstance(value, float):
        if value != value:
            return "-"
        return f"{value:.3g}" if abs(value) < 100 or abs(value) >= 1e5 else f"{value:.0f}"
    return str(value)


def write_csv(rows, path):
    """Dicts with the same keys, floats to six digits."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                         for row in rows)
