"""The command line: files out, one sentence and an exit status on failure, nothing half-written."""
import dataclasses
import json
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

import pmapde
from pmapde import console
from pmapde.cli import main
from pmapde.commands import FLOWS, OURS, PLANS
from pmapde.options import STUDIES


@pytest.fixture
def picture(tmp_path):
    x = np.linspace(0, 1, 40)
    grey = (60 + 150 * np.outer(np.sin(np.pi * x), x[:30])).astype(np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(grey).save(path)
    return path


def test_solve_writes_data_summary_and_figures(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["solve", str(picture), "two_gaussians", "--size", "32", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == OURS
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "CONVERGED" and summary["source"] == str(picture)
    assert pmapde.load(out / "solution.npz").cost == pytest.approx(summary["cost"])
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5
    printed = capsys.readouterr()
    assert "CONVERGED" in printed.out and "solution.npz" in printed.out


def test_animation_moves_the_source_to_the_target_and_back(picture, tmp_path):
    out = tmp_path / "out"
    assert main(["solve", str(picture), "two_gaussians", "--size", "32", "--animation", "--no-figures", "--out",
                 str(out)]) == 0
    with Image.open(out / "interpolation.gif") as movie:
        frames = [np.asarray((movie.seek(k), movie.convert("L"))[1], float) for k in range(movie.n_frames)]
    assert len(frames) == 48  # 25 and all but the ends of them again
    np.testing.assert_array_equal(frames[1], frames[-1])
    moved = [np.abs(frame - frames[0]).mean() for frame in frames]
    assert np.argmax(moved) in range(20, 29) and max(moved) > 2 * moved[1] > 0


def test_pictures_of_different_shapes_keep_their_own_grids(picture, tmp_path):
    np.save(tmp_path / "target.npy", np.ones((20, 25)) + np.arange(25))
    assert main(["solve", str(picture), str(tmp_path / "target.npy"), "--out", str(tmp_path / "out"),
                 "--no-figures"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["source_shape"] == [40, 30] and summary["target_shape"] == [20, 25]


def test_volumes_and_json_and_every_solver(tmp_path, capsys):
    for solver in ("auto", "geometric", "algebraic", "spectral", "direct"):
        assert main(["solve", "two_balls", "ball", "--size", "12x12x12", "--floor", "0.2", "--json", "--solver", solver,
                     "--boundary", "periodic", "--no-figures", "--out", str(tmp_path / solver)]) == 0
        assert json.loads(capsys.readouterr().out)["success"] is True


@pytest.mark.parametrize(("arguments", "message"), [
    (["no-such-name", "uniform"], "SOURCE 'no-such-name' is neither a file nor a name of the gallery"),
    (["two_gausians", "uniform"], "did you mean the gallery's 'two_gaussians'"),
    (["uniform", "{tmp}"], "TARGET .* is a folder"),
    (["{tmp}/text.png", "uniform"], "is not an image that can be read"),
    (["{tmp}/clear.png", "uniform"], "has transparency"),
    (["{tmp}/pickled.npy", "uniform"], "is not a readable array file"),
    (["{tmp}/two.npz", "uniform"], "holds 2 arrays"),
    (["{tmp}/nan.npy", "uniform"], "`SOURCE` must be finite, got nan"),
    (["{tmp}/negative.npy", "uniform"], "`SOURCE` must be non-negative"),
    (["{tmp}/zero.npy", "uniform"], "`SOURCE` must have positive mass"),
    (["{tmp}/line.npy", "uniform"], "`SOURCE` must have two or three axes"),
    (["ball", "ring", "--size", "8x8x8"], "2-dimensional, got ndim 3"),
    (["uniform", "ring", "--size", "one"], "--size must be N, NxM or NxMxK"),
    (["uniform", "ring", "--size", "1"], "at least 2 cells"),
    (["uniform", "ring", "--floor", "2"], "`floor` must be a number in"),
    (["uniform", "ring", "--floor", "0", "--size", "16", "--tolerance", "tiny"], "--tolerance must be"),
    (["uniform", "ring", "--tolerance", "inf"], "--tolerance must be"),
    (["uniform", "ring", "--tolerance=-1"], "--tolerance must be"),
    (["uniform", "ring", "--threads", "0"], "`threads` must be a whole number"),
    (["uniform", "uniform", "--size", "300000"], "GiB"),
])
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, message, tmp_path, capsys, recwarn):
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGBA", (8, 8), (10, 20, 30, 40)).save(tmp_path / "clear.png")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((4, 4)), b=np.ones((4, 4)))
    for name, value in (("nan", np.nan), ("negative", -1.0)):
        array = np.ones((8, 8))
        array[1, 2] = value
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "zero.npy", np.zeros((8, 8)))
    np.save(tmp_path / "line.npy", np.ones(8))
    before = sorted(tmp_path.iterdir())
    arguments = [text.replace("{tmp}", str(tmp_path)) for text in arguments]
    assert main(["solve", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("pmapde: error: ") and "\n" not in error and "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before


def test_output_that_cannot_be_written_is_found_out_before_solving(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["solve", "uniform", "ring", "--out", str(tmp_path / "file")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["solve", "uniform", "ring", "--out", ""]) == 2
    assert "--out must not be empty" in capsys.readouterr().err
    assert main(["solve", "uniform", "ring", "--out", "/proc/nowhere"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_solve_exits_with_one_and_leaves_nothing(tmp_path, capsys):
    assert main(["solve", "uniform", "two_gaussians", "--size", "32", "--max-steps", "1", "--out",
                 str(tmp_path / "out")]) == 1
    assert "not solved (MAX_STEPS)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_solve_leaves_no_parent_folders_and_no_old_results_change(tmp_path):
    failing = ["solve", "uniform", "two_gaussians", "--size", "32", "--max-steps", "1", "--out"]
    assert main([*failing, str(tmp_path / "a" / "b" / "c")]) == 1
    assert not (tmp_path / "a").exists()
    assert main(["solve", "uniform", "cosine", "--size", "16", "--no-figures", "--out", str(tmp_path / "kept")]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert main([*failing, str(tmp_path / "kept")]) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before


def test_a_failed_solve_is_kept_on_request(tmp_path, capsys):
    assert main(["solve", "uniform", "two_gaussians", "--size", "32", "--max-steps", "1", "--keep-failed",
                 "--out", str(tmp_path / "out")]) == 1
    assert "not solved (MAX_STEPS)" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["success"] is False
    assert not pmapde.load(tmp_path / "out" / "solution.npz").success


def test_figures_of_an_earlier_run_do_not_stay_beside_new_data(tmp_path):
    command = ["solve", "uniform", "cosine", "--size", "16", "--out", str(tmp_path)]
    assert main(command) == 0 and {path.name for path in tmp_path.iterdir()} == OURS
    assert main([*command, "--no-figures"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"solution.npz", "summary.json"}


@pytest.mark.parametrize(("number", "code", "sentence"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_leaves_nothing(number, code, sentence, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        assert list((tmp_path / "a" / "out").iterdir())  # the control: there is something to remove
        signal.raise_signal(number)
    monkeypatch.setattr(pmapde, "solve", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["solve", "uniform", "ring", "--size", "16", "--out", str(tmp_path / "a" / "out")]) == code
    assert capsys.readouterr().err == f"pmapde: error: {sentence}\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_is_one_sentence_too(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("PMAPDE_TRACEBACK", raising=False)
    monkeypatch.setattr(pmapde, "solve", lambda *_, **__: 1 / 0)
    command = ["solve", "uniform", "ring", "--size", "16", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in error and error.count("\n") == 1
    monkeypatch.setenv("PMAPDE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [SystemError("error return without exception set"),
                                   ImportError("ft2font.so: failed to map segment from shared object")])
def test_memory_that_ends_while_a_library_is_loaded_is_out_of_memory(error, tmp_path, monkeypatch, capsys):
    def solve(*_, **__):
        raise error
    monkeypatch.delenv("PMAPDE_TRACEBACK", raising=False)
    monkeypatch.setattr(pmapde, "solve", solve)
    assert main(["solve", "uniform", "ring", "--size", "16", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "pmapde: error: out of memory: use a smaller --size\n"
    assert not list(tmp_path.iterdir())


def test_warnings_are_one_line_notes(tmp_path, monkeypatch, capsys):
    solve = pmapde.solve

    def noisy(*arguments, **settings):
        warnings.warn("too narrow", pmapde.StencilWarning, stacklevel=1)
        return solve(*arguments, **settings)
    monkeypatch.setattr(pmapde, "solve", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["solve", "uniform", "cosine", "--size", "16", "--no-figures", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "pmapde: note: too narrow\n"


def test_array_archives_and_suffixes_in_capitals(tmp_path):
    values = np.add.outer(np.ones(12), np.arange(10.0))
    np.savez(tmp_path / "one.npz", picture=values, spacing=0.1)  # the only array of two or three axes
    np.savez(tmp_path / "named.npz", other=values, density=values)
    np.save(tmp_path / "capital.npy", values)
    (tmp_path / "capital.npy").rename(tmp_path / "CAPITAL.NPY")
    costs = []
    for name in ("one.npz", "named.npz", "CAPITAL.NPY"):
        assert main(["solve", str(tmp_path / name), "uniform", "--no-figures", "--out", str(tmp_path / "out")]) == 0
        costs.append(json.loads((tmp_path / "out" / "summary.json").read_text())["cost"])
    assert len(set(costs)) == 1


def test_sinkhorn_writes_data_summary_and_figures(picture, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sinkhorn", str(picture), "two_gaussians", "--size", "24", "--epsilon", "2e-3", "--out", str(out)]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == PLANS
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "MARGINALS_MET" and summary["marginal_error"] < 1e-6
    plan = pmapde.load(out / "plan.npz")
    assert plan.debiased_cost == pytest.approx(summary["debiased_cost"]) and plan.epsilon == 2e-3
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300 and np.asarray(image.convert("L")).std() > 5
    printed = capsys.readouterr()
    assert "MARGINALS_MET" in printed.out and str(out / "plan.npz") in printed.out
    # a solve into the same folder replaces what has the same name, and leaves the plan
    assert main(["solve", "uniform", "cosine", "--size", "16", "--no-figures", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"solution.npz", "summary.json"} | (PLANS - OURS)


def test_sinkhorn_with_a_number_of_sweeps_and_json(tmp_path, capsys):
    holes = np.ones((6, 5, 4))
    holes[2:4, 1:3] = 0
    np.save(tmp_path / "holes.npy", holes)
    assert main(["sinkhorn", str(tmp_path / "holes.npy"), "ball", "--epsilon", "0.02", "--sweeps", "7", "--step",
                 "0.03", "--boundary", "periodic", "--json", "--no-figures", "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "SWEEPS_DONE" and report["stats"]["sweeps"] == 7 and report["source_shape"] == [6, 5, 4]


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["--epsilon", "0"], 2, "`epsilon` must be a positive temperature, got 0.0"),
    (["--epsilon", "0.01", "--overrelaxation", "2"], 2, "`overrelaxation` must be"),
    (["--epsilon", "0.01", "--sweeps", "0"], 2, "`iterations` must be a whole number"),
    (["--epsilon", "1e-4", "--sweeps", "2", "--tolerance", "1e-9"], 1, "not solved .MAX_SWEEPS."),
])
def test_a_failed_sinkhorn_is_one_sentence_and_leaves_nothing(arguments, code, message, tmp_path, capsys):
    command = ["sinkhorn", "two_gaussians", "ring", "--size", "16", *arguments, "--out", str(tmp_path / "out")]
    assert main(command) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("pmapde: error: ") and "\n" not in error and re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_demo(tmp_path, capsys):
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for case in ("picture", "volume", "known"):
        assert {path.name for path in (tmp_path / case).iterdir()} == OURS
        assert f"wrote     {tmp_path / case / 'densities.png'}" in printed
    assert float(re.search(r"error +map (\S+) in L2", printed).group(1)) < 2e-4


def test_demo_does_without_the_picture_files(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ValueError(f"{name} left out")
    monkeypatch.setattr("pmapde.gallery._read", missing)
    monkeypatch.setattr("pmapde.plotting.save_figures", lambda *_: [])
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "pmapde: note: mri left out" in printed.err and "two moons to a ring" in printed.out


def test_a_folder_with_other_files_keeps_them(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["solve", "uniform", "cosine", "--size", "16", "--no-figures", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "solution.npz", "summary.json"}


def test_info_names_versions_threads_and_the_gallery(capsys):
    assert main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["numba"] and report["threads"]["numba threads"] >= 1
    assert "mri" in report["gallery, pictures"]


def test_help_loads_neither_numba_nor_matplotlib():
    code = ("import sys; from pmapde.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "sys.exit(any(name in sys.modules for name in ('numba', 'matplotlib', 'scipy')))")
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_flow_writes_trajectory_ledger_and_figures(tmp_path, capsys):
    out = tmp_path / "out"
    line = ["flow", "two_moons", "uniform", "--size", "24", "--times", "0.001,0.05", "--out", str(out)]
    assert main(line) == 0
    assert {path.name for path in out.iterdir()} == FLOWS
    summary = json.loads((out / "summary.json").read_text())
    run = pmapde.load(out / "trajectory.npz")
    assert summary["status"] == "FINAL_TIME" and summary["times"] == [0.001, 0.05] == run.times.tolist()
    assert (out / "ledger.csv").read_text().count("\n") == len(run.ledger) + 1
    assert "identity" in capsys.readouterr().out
    assert main([*line[:-1], str(out), "--no-figures", "--json", "--integrator", "tr-bdf2", "--ledger",
                 "densities"]) == 0
    assert {path.name for path in out.iterdir()} == FLOWS - {"flow_densities.png", "ledger.png"}
    assert json.loads(capsys.readouterr().out)["steps"] > 3


@pytest.mark.parametrize(("extra", "words"), [
    (["--times", "1,x"], "--times must be numbers"), (["--times", "2,1"], "`times` must be increasing"),
    (["--step", "-1"], "`step` must be a positive time"), (["--tolerance", "2"], "`tolerance` must be between 0 and 1"),
])
def test_bad_settings_of_flow_get_one_sentence(extra, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["flow", "two_moons", "uniform", "--size", "16", "--out", str(out), *extra]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not out.exists()


def test_rates_writes_figures_numbers_and_slopes(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["rates", "--out", str(out), "--quick", "--only", "time", "evi"]) == 0
    assert {path.name for path in out.iterdir()} == {"time.png", "time.csv", "evi.png", "evi.csv", "summary.json"}
    slopes = json.loads((out / "summary.json").read_text())["slopes"]["time"]
    assert len(slopes) == 3 and all(abs(slope - order) < 0.2 for slope, order in zip(slopes.values(), (1, 2, 3)))
    assert "slope" in capsys.readouterr().out
    (out / "solution.npz").touch()  # another command's results are not this one's to remove
    assert main(["rates", "--out", str(out), "--quick", "--only", "time"]) == 0
    assert (out / "solution.npz").exists()


def test_the_names_of_the_studies_are_those_there_are():
    from pmapde import rates
    assert tuple(rates.STUDIES) == STUDIES


def test_a_terminal_is_told_that_kernels_are_compiled(monkeypatch, capsys):
    """Before the first step there is nothing else to show; elsewhere than on a terminal there is nothing at all."""
    for what in (console.progress, lambda: console.working("learning")):
        with what():
            assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with what():
            assert "kernels are compiled at their first use" in capsys.readouterr().err
        assert not capsys.readouterr().err.strip()  # it is wiped out
        monkeypatch.undo()


def test_the_map_of_an_entropic_plan_has_figures(tmp_path):
    """It has no residual, which is what says of other solutions that there is nothing to draw."""
    solution = pmapde.solve(pmapde.TransportProblem(np.add.outer(1 + np.arange(16), np.arange(16)), np.ones((16, 16))))
    for blur, drawn in ((0.04, True), (0.0, False)):
        folder = tmp_path / str(blur)
        folder.mkdir()
        names = console.write_solution(dataclasses.replace(solution, residual=np.nan, blur=blur), folder, {})
        assert any(name.endswith(".png") for name in names) == drawn
