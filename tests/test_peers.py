"""The back-and-forth method of the benchmarks on problems with known answers, and the machinery of their tables."""
import math
import time

import back_and_forth as baf
import bench_peers
import numpy as np
import pytest
from bench_peers import Answer, Case, Runner, Solver
from scipy.fft import dctn, idctn

from pmapde import exact, gallery
from pmapde.grid import Grid


@pytest.mark.parametrize("shape", [(12, 9), (5, 7, 6)])
def test_c_transform_is_the_minimum_over_all_cells(shape):
    potential = np.random.default_rng(0).standard_normal(shape) / 50
    points = Grid(shape).cell_centres().reshape(len(shape), -1).T
    costs = ((points[:, None] - points)**2).sum(axis=2) / 2
    direct = (costs - potential.ravel()).min(axis=1).reshape(shape)
    assert baf.c_transform(potential) == pytest.approx(direct, abs=1e-14)


def test_conjugating_three_times_is_conjugating_once():
    once = baf.c_transform(np.random.default_rng(1).standard_normal((20, 17)))
    assert baf.c_transform(baf.c_transform(once)) == pytest.approx(once, abs=1e-13)


@pytest.mark.parametrize("shape", [(16, 12), (8, 6, 7)])
def test_push_forward_keeps_the_mass_and_stays_without_a_potential(shape):
    mass = np.random.default_rng(2).random(shape)
    assert baf.push_forward(mass, np.random.default_rng(3).random(shape) / 10).sum() == pytest.approx(mass.sum())
    assert baf.push_forward(np.ones(shape), np.zeros(shape)) == pytest.approx(np.ones(shape), abs=1e-13)


@pytest.mark.parametrize("sizes", [(24, 48, 96), (10, 20)])
def test_push_forward_follows_the_known_map(sizes):
    errors, ndim = [], 5 - len(sizes)
    for n in sizes:
        problem = exact.separable_cosine((n,) * ndim, 0.4)
        points = problem.problem.grid.cell_centres().reshape(ndim, -1).T
        psi = ((points**2).sum(axis=1) / 2 - problem.potential(points)).reshape(problem.problem.grid.shape)
        # In H^-1: pointwise the samples make a moiré that does not fade.
        excess = dctn(baf.push_forward(problem.problem.source_values, psi) - 1, norm="ortho")
        errors.append(np.sqrt((excess**2 / baf.poisson_symbol(excess.shape)).mean()))
    assert errors[-1] < 0.003 and all(fine < 0.6 * coarse for coarse, fine in zip(errors, errors[1:]))


def test_poisson_symbol_inverts_the_laplacian_with_no_flux():
    field = np.random.default_rng(4).standard_normal((9, 14))
    ghosted = np.pad(field, 1, mode="symmetric")
    negative = sum(n**2 * (2 * field - ghosted[low] - ghosted[high]) for n, low, high in (
        (9, np.s_[:-2, 1:-1], np.s_[2:, 1:-1]), (14, np.s_[1:-1, :-2], np.s_[1:-1, 2:])))
    back = idctn(dctn(negative, norm="ortho") / baf.poisson_symbol(field.shape), norm="ortho")
    assert back == pytest.approx(field - field.mean(), abs=1e-12)


@pytest.mark.parametrize("build", [exact.separable_cosine, exact.manufactured, exact.gaussians])
def test_back_and_forth_converges_at_first_order(build):
    errors, costs, duals = [], [], []
    for n in (32, 64, 128):
        problem = build((n, n))
        result = baf.solve(problem.problem.source_values, problem.problem.target_values)
        assert result.reason == "stalled" and result.iterations < 40
        errors.append(problem.map_error(result.displacement))
        costs.append(abs((result.displacement**2).sum(axis=0).ravel() @ problem.problem.source_values.ravel() / n**2
                         / problem.cost - 1))
        duals.append(abs(result.cost / problem.cost - 1))
    assert errors[-1] < 6e-4 and errors[0] / errors[-1] > 3  # 4 would be first order, but the floor wobbles
    assert costs[-1] < 1e-3
    assert duals[0] / duals[-1] > 11  # second order is 16


def test_back_and_forth_in_three_dimensions():
    problem = exact.separable_cosine((16, 16, 16))
    result = baf.solve(problem.problem.source_values, problem.problem.target_values)
    assert problem.map_error(result.displacement) < 5e-3


def test_back_and_forth_stops_where_told_and_refuses_other_shapes():
    density = gallery.load("cosine", (16, 16))
    assert baf.solve(density, np.ones((16, 16)), iterations=2).reason == "iterations"
    assert baf.solve(density, np.ones((16, 16)), tolerance=0.1).reason == "converged"
    with pytest.raises(ValueError, match="same shape"):
        baf.solve(density, np.ones((16, 15)))


def test_the_spectral_reference_agrees_with_a_known_map():
    n = 48
    problem = exact.manufactured((n, n), uniform_target=True)
    # The source of this one is smooth, and its cell averages follow from the points of a finer grid.
    fine = exact.manufactured((8 * n, 8 * n), uniform_target=True).problem.source_values
    reference = bench_peers.SpectralReference(fine.reshape(n, 8, n, 8).mean(axis=(1, 3)))
    assert reference.displacement(n) == pytest.approx(problem.displacement(), abs=2e-5)
    assert reference.cost == pytest.approx(problem.cost, rel=1e-3)


def row(solver, grid, seconds, map_error, cost_error, outcome="ok"):
    return {"problem": "p", "solver": solver, "grid": grid, "seconds": seconds, "map error": map_error,
            "cost error": cost_error, "iterations": 1, "outcome": outcome, "map vs pmapde": "", "cost vs pmapde": ""}


def test_matched_accuracy_takes_the_smallest_grid_that_is_good_enough():
    rows = bench_peers.compare([
        row("pmapde", "16x16", 1.0, 1e-2, 1e-2), row("pmapde", "32x32", 2.0, 2e-3, 3e-3),
        row("pmapde", "64x64", 4.0, 5e-4, 7e-4), row("fast", "32x32", 3.0, 5e-3, 1e-9),
        row("fast", "64x64", 9.0, 3e-3, 2e-9), row("fast", "128x128", 40.0, 2.9e-3, 3e-9),
        row("broken", "32x32", "", "", "", "more than 1 s")])
    assert [line["map vs pmapde"] for line in rows] == ["", "", "", 1.5, 4.5, 20.0, ""]
    assert rows[3]["cost vs pmapde"] == "none"
    table = {(line["rival"], line["of"]): line for line in bench_peers.matched(rows)}
    assert len(table) == 4
    assert table["fast", "map"]["rival / pmapde"] == 4.5 and table["fast", "map"]["pmapde grid"] == "32x32"
    assert table["fast", "cost"]["rival grid"] == "32x32"
    assert table["fast", "cost"]["rival / pmapde"] == "no pmapde grid"
    assert table["broken", "map"]["rival / pmapde"] == "no answer"


def standing_still(source, target):
    return lambda: Answer(np.zeros((2, *source.shape)), 0.0, 1)


def not_a_number(source, target):
    return lambda: Answer(np.full((2, *source.shape), np.nan), 0.01, 1, "not converged")


def exploding(source, target):
    raise RuntimeError("no\nsuch thing")


def endless(source, target):
    return lambda: time.sleep(1000)


@pytest.fixture(scope="module")
def case():
    return bench_peers.PROBLEMS["cosine"][1]((16, 16))


def solver(prepare, **keywords):
    return Solver(prepare, keywords, (), (16,), (8,))


def test_errors_of_the_known_answer_are_zero(case):
    assert case.errors(Answer(case.displacement, case.cost, 1)) == (0.0, 0.0)
    assert case.errors(Answer(0 * case.displacement, case.cost, 1))[0] == pytest.approx(math.sqrt(case.cost), rel=0.01)
    assert isinstance(case, Case) and case.source.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(("prepare", "outcome"), [(standing_still, "WRONG"), (not_a_number, "WRONG, not converged")])
def test_a_wrong_answer_is_not_timed(case, prepare, outcome):
    figures = bench_peers.measure(solver(prepare), case)
    assert figures["outcome"] == outcome and figures["seconds"] == ""


def test_failures_and_slow_ones_become_rows(case):
    for prepare, outcome, limit in ((exploding, "FAILED: RuntimeError: no", 60), (endless, "more than 0.1 s", 0.1)):
        runner = Runner(solver(prepare), None, limit, 0.0)
        try:
            assert runner.run(case)["outcome"] == outcome
        finally:
            runner.close()


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(bench_peers.importlib.util, "find_spec", lambda name: None)
    rows = bench_peers.run_all({"POT emd": bench_peers.solvers()["POT emd"]}, {}, None, None, 1.0, 0.0)
    assert [line["outcome"] for line in rows] == ["missing: POT"]


def test_the_quick_run_prints_both_tables_and_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("common.RESULTS", tmp_path)
    monkeypatch.setattr(bench_peers, "RESULTS", tmp_path)
    rows = bench_peers.main(["--quick", "--problems", "gaussians", "--solvers", "pmapde", "back"])
    assert [line["outcome"] for line in rows] == ["ok"] * 4
    text = capsys.readouterr().out
    assert "rival / pmapde" in text and "Outcomes: 4 ok" in text and not list(tmp_path.iterdir())
    bench_peers.plot(rows, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 10_000
