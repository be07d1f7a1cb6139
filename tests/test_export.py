"""Files for other programs hold what the solution holds, value by value."""
import re
import sys
import xml.etree.ElementTree as ElementTree
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from tools import solve_exact

import pmapde
from pmapde import exact
from pmapde.cli import main
from pmapde.commands import OURS


def read_vti(path):
    """An independent reader of the format: ``(extent, origin, spacing, arrays by name)``, arrays indexed (x, y, z)."""
    head, _, rest = path.read_bytes().partition(b"encoding=\"raw\">\n_")
    root = ElementTree.fromstring(head + b"encoding=\"raw\"/></VTKFile>")
    assert root.attrib["type"] == "ImageData" and root.attrib["byte_order"] == "LittleEndian"
    image = root.find("ImageData")
    numbers = {name: [float(part) for part in image.attrib[name].split()]
               for name in ("WholeExtent", "Origin", "Spacing")}
    extent = [int(number) for number in numbers["WholeExtent"]]
    cells = [extent[2 * axis + 1] - extent[2 * axis] for axis in range(3)]
    arrays = {}
    for element in image.find("Piece/CellData"):
        start, components = int(element.attrib["offset"]), int(element.attrib["NumberOfComponents"])
        size = int(np.frombuffer(rest, np.uint64, 1, start)[0])
        assert size == 8 * components * np.prod(cells)
        values = np.frombuffer(rest, np.float64, size // 8, start + 8)
        arrays[element.attrib["Name"]] = values.reshape(*cells[::-1], components).transpose(3, 2, 1, 0)
    return extent, numbers["Origin"], numbers["Spacing"], arrays


@pytest.fixture(scope="module")
def solution():
    """In two dimensions, on a box of nanometres with unequal sides; the target has other cells."""
    grid = pmapde.Grid((20, 12), box=[(-1e-8, 1e-8), (3e-9, 2e-8)])
    x, y = np.meshgrid(*(np.linspace(0, 1, n) for n in (20, 12)), indexing="ij")
    found = pmapde.solve(pmapde.TransportProblem(1 + x * y, np.ones((16, 10)), grid=grid))
    assert found.success
    return found


def test_vti_of_a_plane(solution, tmp_path):
    pytest.importorskip("pyevtk", reason="extra `export`")
    path = pmapde.save_vti(solution, tmp_path / "plane")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plane.vti"] == [path.name]
    extent, origin, spacing, arrays = read_vti(path)
    assert extent == [0, 20, 0, 12, 0, 1]
    assert origin == [-1e-8, 3e-9, 0.0]
    assert spacing == [*solution.problem.grid.spacing, solution.problem.grid.spacing.min()]
    assert set(arrays) == {"source", "potential", "displacement_potential", "displacement"}
    assert np.array_equal(arrays["source"][0, :, :, 0], solution.problem.source_values)
    assert np.array_equal(arrays["potential"][0, :, :, 0], solution.potential)
    assert np.array_equal(arrays["displacement"][:2, :, :, 0], solution.displacement)
    assert not arrays["displacement"][2].any() and arrays["displacement"][0].any()
    target = read_vti(pmapde.save_vti(solution, tmp_path / "target.vti", side="target"))
    assert target[0] == [0, 16, 0, 10, 0, 1]
    assert np.array_equal(target[3]["dual_potential"][0, :, :, 0], solution.dual_potential)
    assert np.array_equal(target[3]["push_forward"][0, :, :, 0], solution.push_forward())


def test_vti_of_a_volume_replaces_the_old_file(tmp_path):
    pytest.importorskip("pyevtk", reason="extra `export`")
    solution = solve_exact(exact.manufactured((10, 8, 9)))
    path = tmp_path / "volume.vti"
    path.write_text("old")
    pmapde.save_vti(solution, path)
    extent, _, spacing, arrays = read_vti(path)
    assert extent == [0, 10, 0, 8, 0, 9] and spacing == [1 / 10, 1 / 8, 1 / 9]
    assert np.array_equal(arrays["displacement"], solution.displacement)
    assert np.array_equal(arrays["source"][0], solution.problem.source_values)


def test_nothing_is_left_of_a_file_that_could_not_be_written(solution, tmp_path, monkeypatch):
    vtk = pytest.importorskip("pyevtk.vtk", reason="extra `export`")

    def full(*_):
        raise OSError(28, "No space left on device")
    path = tmp_path / "plane.vti"
    path.write_text("old")
    monkeypatch.setattr(vtk.VtkFile, "appendData", full)
    with pytest.raises(OSError, match="No space"):
        pmapde.save_vti(solution, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["plane.vti"] and path.read_text() == "old"


@pytest.mark.parametrize(("fields", "arguments", "error", "message"), [
    ({"a": np.ones((4, 3))}, {"grid": pmapde.Grid((3, 4))}, ValueError, r"`fields\['a'\]` must be of shape \(3, 4\)"),
    ({'a"b': np.ones((4, 3))}, {"grid": pmapde.Grid((4, 3))}, ValueError, "letters, digits and underscores"),
    ({"a": np.ones((4, 3))}, {}, TypeError, "`grid` must be the pmapde.Grid"),
    ({}, {"grid": pmapde.Grid((4, 3))}, TypeError, "`fields` must be a Solution or a dict"),
    (np.ones((4, 3)), {"grid": pmapde.Grid((4, 3))}, TypeError, "`fields` must be a Solution or a dict"),
    ("solution", {"side": "left"}, ValueError, "`side` must be 'source' or 'target'"),
    ("solution", {"grid": pmapde.Grid((4, 3))}, ValueError, "`grid` is for a dict"),
])
def test_bad_input_is_named(solution, fields, arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pmapde.save_vti(solution if isinstance(fields, str) else fields, tmp_path / "x.vti", **arguments)
    assert not list(tmp_path.iterdir())


def test_dataset_goes_through_netcdf(solution, tmp_path):
    xarray = pytest.importorskip("xarray", reason="extra `export`")
    pmapde.to_xarray(solution).to_netcdf(tmp_path / "solution.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "solution.nc", engine="scipy") as read:
        grid = solution.problem.grid
        assert np.array_equal(read.x, grid.centres(0)) and np.array_equal(read.y, grid.centres(1))
        assert read.potential.dims == ("x", "y") and np.array_equal(read.potential, solution.potential)
        assert np.array_equal(read.displacement.sel(axis="y"), solution.displacement[1])
        assert read.dual_potential.dims == ("target_x", "target_y")
        assert np.array_equal(read.push_forward, solution.push_forward())
        assert read.attrs["cost"] == solution.cost and read.attrs["status"] == "CONVERGED"
        assert read.attrs["success"] == 1
    with pytest.raises(TypeError, match="`solution` must be a Solution"):
        pmapde.to_xarray(np.ones((4, 4)))


def test_command_line_writes_both_sides(tmp_path):
    pytest.importorskip("pyevtk", reason="extra `export`")
    command = ["solve", "two_gaussians", "uniform", "--size", "16", "--no-figures", "--out", str(tmp_path)]
    assert main([*command, "--vti"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"solution.npz", "summary.json", "source.vti", "target.vti"}
    solution = pmapde.load(tmp_path / "solution.npz")
    assert np.array_equal(read_vti(tmp_path / "source.vti")[3]["potential"][0, :, :, 0], solution.potential)
    assert main(command) == 0  # files of an earlier run would belong to another solution
    assert not list(tmp_path.glob("*.vti")) and not {"source.vti"} & OURS


def test_without_the_extra_one_sentence_says_so_before_the_work(tmp_path, monkeypatch, capsys, solution):
    monkeypatch.setitem(sys.modules, "pyevtk", None)
    monkeypatch.setitem(sys.modules, "pyevtk.vtk", None)
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.setattr(pmapde, "solve", None)
    assert main(["solve", "two_gaussians", "uniform", "--size", "16", "--out", str(tmp_path / "out"), "--vti"]) == 2
    assert re.fullmatch(r"pmapde: error: exporting needs pyevtk: .*'pmapde\[export\]'\.\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ImportError, match="exporting needs xarray"):
        pmapde.to_xarray(solution)


def test_the_packages_are_an_extra_that_export_alone_imports():
    root = Path(__file__).resolve().parents[1]
    configuration = ConfigParser()
    configuration.read(root / "setup.cfg")
    assert configuration["options.extras_require"]["export"].split() == ["pyevtk", "xarray"]
    users = {path.name for path in (root / "pmapde").rglob("*.py")
             if re.search(r"(import|required\()\W*(pyevtk|xarray)", path.read_text())}
    assert users == {"export.py", "console.py"}  # the latter asks whether it is there
