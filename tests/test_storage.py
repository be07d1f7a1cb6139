"""save and load: the same solution back, never a pickle, never half a file."""
import numpy as np
import pytest
from tools import solve_exact

import pmapde
from pmapde import exact


@pytest.mark.parametrize("problem", [exact.manufactured((24, 20)), exact.manufactured((20, 16), periodic=True),
                                     exact.manufactured((10, 8, 9), array_target=True)], ids=["box", "torus", "3D"])
def test_a_loaded_solution_is_the_saved_one(problem, tmp_path):
    solution = solve_exact(problem)
    solution.save(tmp_path / "solution.npz")
    loaded = pmapde.load(tmp_path / "solution.npz")
    assert str(loaded.status) == str(solution.status)
    assert loaded.cost == solution.cost
    assert np.allclose(loaded.potential, solution.potential, atol=1e-15)
    points = np.random.default_rng(2).random((100, problem.problem.ndim))
    assert np.allclose(loaded.map(points), solution.map(points), atol=1e-15)
    assert np.array_equal(loaded.history["residual"], solution.history["residual"])
    assert loaded.summary()["stats"] == solution.summary()["stats"]


def test_the_suffix_is_added_and_nothing_else_is_left(tmp_path):
    solve_exact(exact.separable_cosine((16, 16))).save(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result.npz"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "solution.npz"
    solve_exact(exact.separable_cosine((16, 16))).save(path)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a result saved by pmapde"):
            pmapde.load(path)
    np.savez(path, header=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="is not a result saved by pmapde"):
        pmapde.load(path)
    np.savez(path, values=np.ones(3))
    with pytest.raises(ValueError, match="is not a result saved by pmapde"):
        pmapde.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    solution = solve_exact(exact.separable_cosine((16, 16)))
    solution.save(tmp_path / "solution.npz")
    before = (tmp_path / "solution.npz").read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")
    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        solution.save(tmp_path / "solution.npz")
    assert (tmp_path / "solution.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
