"""pmapde sample: data, summary, figures, or one sentence and nothing."""
import json

import numpy as np
import pytest
from PIL import Image

import pmapde
from pmapde import console
from pmapde.cli import main
from pmapde.commands import GENERATED


def test_sample_writes_samples_summary_and_figures(tmp_path, capsys):
    table, out = tmp_path / "table.csv", tmp_path / "out"
    X = pmapde.toys.draw("moons", 300, np.random.default_rng(0))
    np.savetxt(table, X, delimiter=",", header="first,second", comments="")
    assert main(["sample", str(table), "--n", "50", "--ratio", "density", "--cells", "32", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == GENERATED
    summary = json.loads((out / "summary.json").read_text())
    assert summary["samples"] == 300 and summary["generated"] == 50 and summary["steps"] >= 1
    generated = np.loadtxt(out / "samples.csv", delimiter=",")
    assert generated.shape == (50, 2) and np.abs(generated).max() < 2 * np.abs(X).max()
    assert pmapde.load(out / "solution.npz").success
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5
    assert "held out" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "arguments", "message"), [
    ("nothing", [], "DATA 'nothing' is neither"),
    ("{tmp}/text.csv", [], "not a table of numbers: 'x' where a number should be in line 2"),
    ("{tmp}/ragged.csv", [], "line 2 has 1 columns, the first row 2"),
    ("{tmp}/missing.csv", [], "an empty cell in line 3"),
    ("{tmp}/empty.csv", [], "has no rows of numbers"),
    ("{tmp}/header.csv", [], "has no rows of numbers"),
    ("{tmp}/long.csv", [], "not a table of numbers (field larger"),
    ("{tmp}/four.npy", [], "shape (n, 2) or (n, 3), got (100, 4)"),
    ("{tmp}/line.npy", [], "lies on a line or a plane"),
    ("moons", ["--n", "0"], "--n must be at least 1"),
    ("moons", ["--seed", "-1"], "--seed must not be negative"),
    ("moons", ["--cells", "4"], "`cells` must be"),
])
def test_bad_data_is_one_sentence_and_leaves_nothing(data, arguments, message, tmp_path, capsys):
    (tmp_path / "text.csv").write_text("a,b\nx,y\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "missing.csv").write_text("a,b\n1,2\n,3\n")
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "header.csv").write_text("a,b\n")
    (tmp_path / "long.csv").write_text("1," + "1" * 200_000 + "\n")
    np.save(tmp_path / "four.npy", np.random.default_rng(0).random((100, 4)))
    np.save(tmp_path / "line.npy", np.outer(np.arange(100.0), [1.0, 2.0]))
    before = set(tmp_path.iterdir())
    assert main(["sample", data.format(tmp=tmp_path), "--n", "5", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", [
    "1.5,2\n-3,4e1\n",
    "\ufeffa,b\r\n1.5,2\r\n\r\n-3,4e1\r\n",
    "# made by\n# hand\n1.5, 2\n-3, 40\n",
    ',"a","b"\n0,"1.5",2\n1,-3,40\n',  # pandas
    '"length, m",b\n1.5,2\n-3,40\n',
    "a\tb\n1.5\t2\n-3\t4e1\n",
    "a;b\n1,5;2\n-3;40\n",
    "1.5;2\n-3;40\n",
    "1.5  2\n -3 40 \n",
    "1,5 2\n-3 4,0e1\n",
    '"a" "b"\n"1" 1.5 2\n"2" -3 40\n',  # R: no name for the row numbers
    "  a  b\n0  1.5  2\n1 -3  40\n",
])
def test_tables_of_many_hands_are_read(text, tmp_path):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(console.samples(str(tmp_path / "table.csv"), 0), [[1.5, 2.0], [-3.0, 40.0]])
