"""The benchmark: its references, what it counts as an answer, who wins, nothing timed before it is checked."""
import csv
import json
import math
import os
import time
from functools import partial

import bench_peers
import numpy as np
import pytest

from pmapde import benchmark, cli, exact, options, peers, references
from pmapde.benchmark import Report, Runner, measure
from pmapde.peers import Answer, Solver, label
from pmapde.references import FAMILIES

ABOUT = {"machine": [], "threads": 1, "limit": 1.0, "seconds": 0.0, "versions": {}}


# references


def test_the_spectral_reference_agrees_with_a_known_map():
    n = 48
    problem = exact.manufactured((n, n), uniform_target=True)
    # The source of this one is smooth, and its cell averages follow from the points of a finer grid.
    fine = exact.manufactured((8 * n, 8 * n), uniform_target=True).problem.source_values
    reference = references.SpectralReference(fine.reshape(n, 8, n, 8).mean(axis=(1, 3)))
    assert reference.displacement(n) == pytest.approx(problem.displacement(), abs=2e-5)
    assert reference.cost == pytest.approx(problem.cost, rel=1e-3)


def test_the_known_answer_with_zeros_moves_the_mass_and_has_the_cost_it_says():
    for ndim, n in ((2, 64), (3, 32)):
        case = FAMILIES["zeros" if ndim == 2 else "zeros3d"].case(n)
        assert (case.source == 0).mean() > 0.5
        cost = ((case.displacement**2).sum(axis=0) * case.source).mean()
        assert cost == pytest.approx(case.cost, rel=0.03)
        assert case.misplaced(case.displacement) < 0.01 < 0.1 < case.misplaced(0 * case.displacement)


@pytest.mark.parametrize("name", ["cosine", "array", "contrast", "cosine3d"])
def test_errors_of_the_known_answer_are_zero_and_standing_still_is_off_by_one(name):
    case = FAMILIES[name].case(32 if FAMILIES[name].ndim == 2 else 16)
    map_error, cost_error, misplaced = case.errors(Answer(case.displacement, case.cost, 1))
    still = case.errors(Answer(0 * case.displacement, 0.0, 1))
    assert map_error == cost_error == 0 and misplaced < 0.005
    assert still[0] == pytest.approx(1, abs=0.03) and still[1] == 1 and still[2] > 5 * misplaced


def test_a_computed_reference_knows_how_good_it_is():
    """Of pixels whose transport is known: one axis only, so monotone rearrangement of piecewise constant densities."""
    levels = np.array([1.0, 2.0, 4.0, 1.0])
    source, target = np.repeat(levels[:, None], 4, axis=1), np.ones((4, 4))
    reference = references.PixelReference(source, target, 64)
    x = (np.arange(4000) + 0.5) / 4000
    density = np.repeat(levels, 1000) / levels.mean()
    moved = (np.cumsum(density) - density / 2) / 4000 - x
    cost = (moved**2 * density).mean()
    assert abs(reference.cost / cost - 1) < 2 * reference.cost_uncertainty < 0.05
    case = reference.case("pixels", (16, 16))
    exactly = moved.reshape(16, 250).mean(axis=1)[:, None] * np.ones(16)
    error = case.errors(Answer(np.stack([exactly, 0 * exactly]), cost, 0))[0]
    assert error < 4 * case.map_uncertainty < 0.2
    assert case.errors(Answer(np.zeros((2, 16, 16)), cost, 0))[0] > 5 * case.map_uncertainty


# what is timed, what is not


def standing_still(source, target):
    return lambda: Answer(np.zeros((2, *source.shape)), 0.0, 1)


def not_a_number(source, target):
    return lambda: Answer(np.full((2, *source.shape), np.nan), 0.01, 1, remark="not converged")


def exploding(source, target):
    raise RuntimeError("no\nsuch thing")


def endless(source, target):
    return lambda: time.sleep(1000)


@pytest.fixture(scope="module")
def case():
    return FAMILIES["cosine"].case(16)


@pytest.mark.parametrize(("prepare", "outcome"), [(standing_still, "WRONG"), (not_a_number, "WRONG, not converged")])
def test_a_wrong_answer_is_not_timed(case, prepare, outcome):
    figures = measure(prepare(case.source, case.target), case, {}, 0.0)
    assert figures["outcome"] == outcome and math.isnan(figures["seconds"])


def test_failures_and_slow_ones_become_rows(case, monkeypatch):
    monkeypatch.setattr(benchmark, "IMPORTS", 20.0)
    for prepare, outcome, limit in ((exploding, "FAILED: RuntimeError: no", 60), (endless, "more than 0.1 s", 0.1)):
        runner = Runner(prepare, 1, limit, 0.0)
        try:
            if prepare is endless:
                runner._start()
                monkeypatch.setattr(runner, "_ask", partial(impatient, runner._ask))
            assert runner.run(case, {})["outcome"] == outcome
        finally:
            runner.close()


def impatient(ask, message, patience):
    return ask(message, patience if message[0] == "case" else 0.1)


def test_the_threads_of_a_child_are_its_own(monkeypatch):
    """numba refuses to compile once its variable differs from the threads it has; here the references are computed."""
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    seen = []
    benchmark.run(["cosine"], {"still": Solver(standing_still, ({},), (), (16,), ())}, threads=1,
                  progress=lambda row: seen.append((row["outcome"], os.environ["NUMBA_NUM_THREADS"])))
    assert seen == [("WRONG", "7")]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    report = benchmark.run(["cosine"], {"POT emd": peers.solvers()["POT emd"]})
    assert report.rows == [] and report.missing == {"POT emd": ["POT"]}
    assert "POT emd left out, missing: POT" in str(report) and report.summary()["missing"] == {"POT emd": ["POT"]}


# who wins


def row(solver, n, seconds, cost_error, setting="default", family="gaussians", **more):
    return {"problem": "p", "family": family, "kind": "smooth", "ndim": 2, "solver": solver, "setting": setting,
            "blur": math.nan, "grid": f"{n}x{n}", "cells": n * n, "seconds": seconds, "first": 1.0, "sweeps": 1,
            "wall": seconds,
            "map error": 0.01, "cost error": cost_error, "misplaced": 0.01, "marginal": 0.0, "outcome": "ok",
            "map uncertainty": 0.0, "cost uncertainty": 0.0} | more


def test_the_winner_is_the_quickest_that_gets_there_and_stays_there():
    rows = [row("pmapde.solve", 32, 1.0, 1e-2), row("pmapde.solve", 256, 3.0, 1e-4),
            row("X Sinkhorn", 32, 0.1, 1e-5), row("X Sinkhorn", 256, 9.0, 5e-3),  # luck on the coarse grid
            row("X Sinkhorn", 256, 30.0, 1e-4, "slow"),
            row("broken", 32, math.nan, math.nan, outcome="more than 1 s")]
    report = Report(rows, {}, ABOUT)
    won = {(line["of"], line["within"]): line for line in report.winners()}
    assert won["cost", 1e-2]["winner"] == "X Sinkhorn" and won["cost", 1e-2]["ahead"] == 10
    assert won["cost", 1e-3]["winner"] == "pmapde.solve" and won["cost", 1e-3]["X Sinkhorn"] == 30
    assert ("cost", 1e-5) not in won and math.isnan(won["cost", 1e-2]["broken"])
    assert report.outcomes()["broken"] == {"more than 1 s": 1}
    assert report.aim()["at 256^2"]["ratio"] == 10 and report.aim()["any grid"]["Sinkhorn"]["seconds"] == 30
    assert report.tally()["smooth, cost"] == {"X Sinkhorn": 3, "pmapde.solve": 3}


def test_no_goal_is_reached_that_the_answer_is_too_uncertain_for():
    uncertain = {"cost uncertainty": 4e-3}
    report = Report([row("pmapde.solve", 64, 1.0, 1e-6, **uncertain)], {}, ABOUT)
    assert min(line["within"] for line in report.winners() if line["of"] == "cost") == 1e-2
    assert report.aim() is None


def test_settings_are_shown():
    assert label({}) == "default"
    assert label({"blur": 2, "tolerance": 1e-3, "raw": True}) == "blur 2, tolerance 0.001, raw"
    assert label({"extrapolate": "cost"}) == "extrapolate cost"


# all of it


def test_the_command_writes_tables_and_diagrams(tmp_path, capsys):
    out = tmp_path / "out"
    line = ["benchmark", "--only", "cosine", "zeros", "--solvers", "pmapde", "--largest", "32", "--limit", "60",
            "--out", str(out)]
    assert cli.main(line) == 0
    text = capsys.readouterr().out
    assert "winner" in text and "Outcomes: pmapde.solve: 12 ok; pmapde.sinkhorn: 1" in text
    assert {path.name for path in out.iterdir()} == {"runs.csv", "winners.csv", "summary.json", "table.txt",
                                                     "time_2d.png", "sweeps_2d.png", "epsilon_2d.png"}
    with open(out / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 28 and {row["outcome"] for row in rows} <= {"ok", "WRONG"}
    assert all(float(row["seconds"]) > 0 for row in rows if row["outcome"] == "ok")
    good = [row for row in rows if row["grid"] == "32x32" and row["setting"] in ("default", "blur 1, tolerance 0.001")]
    assert len(good) == 4 and all(float(row["map error"]) < 0.05 for row in good)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["outcomes"]["pmapde.solve"]["ok"] == 12 and summary["winners"] and summary["command"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--only", "nothing"], "`families` must be of cosine"), (["--limit", "0"], "`limit` must be a positive time"),
    (["--solvers", "nobody"], "no name begins with 'nobody'"),
])
def test_bad_arguments_are_named(arguments, message, tmp_path, capsys):
    assert cli.main(["benchmark", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_command_knows_the_problems():
    assert tuple(FAMILIES) == options.BENCHMARKS


def test_the_rival_of_the_script_is_right(case):
    figures = measure(bench_peers.prepare(case.source, case.target), case, {}, 0.0)
    assert figures["outcome"] == "ok" and figures["map error"] < 0.05
    assert "back-and-forth" in bench_peers.solvers(True)


@pytest.mark.parametrize("name", ["POT emd", "POT Sinkhorn", "OTT-JAX Sinkhorn", "GeomLoss"])
@pytest.mark.parametrize("family", ["cosine", "zeros"])
def test_peers_give_answers(name, family):
    solver = peers.solvers(quick=True)[name]
    if solver.missing:
        pytest.skip(f"needs {', '.join(solver.missing)} (extra 'peers')")
    case = FAMILIES[family].case(32)
    call = solver.prepare(case.source, case.target)
    errors = case.errors(call(**solver.settings[-1]))
    assert errors[0] < 0.12 and errors[1] < 0.05 and errors[2] < 0.05
    assert isinstance(solver, Solver)


def test_pixels_are_cut_whole():
    """Grids that neither cut nor average whole pixels are left out: 48 for photographs, 12 for noise."""
    assert [n for n in (16, 32, 48, 64) if FAMILIES["photographs"].fits(n)] == [32, 64]
    assert [n for n in (8, 12, 16) if FAMILIES["noise3d"].fits(n)] == [8, 16]
    assert FAMILIES["cosine"].fits(48) and not FAMILIES["cosine"].fits(4)
