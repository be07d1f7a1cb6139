"""The wheel a user installs is whole: all files, all dependencies, a command that runs away from the checkout."""
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, cwd):
    """Standard output of a command; its standard error is in the failure."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def configuration():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def version(configuration):
    return configuration["metadata"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Built from a copy: files left in the checkout's build/ by earlier builds would get into the wheel.
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "pmapde", copy / "pmapde", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", copy / "dist", copy, cwd=copy)
    [wheel] = (copy / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """The bin directory of a new environment that has the wheel, and borrows the packages it depends on."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home.parent)
    # Written only now, or pip would see, and try to replace, the pmapde of the borrowed directories. A directory named
    # in a .pth file has its own .pth files ignored, so an editable pmapde installed there stays hidden.
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    [site_packages] = home.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python.parent


def test_wheel_holds_every_file_of_the_package(wheel):
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pmapde").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("pmapde/")}
    assert packed == written
    assert {"pmapde/kernels/monge_ampere_2d.py", "pmapde/linear/algebraic.py"} <= packed


def test_sdist_holds_the_repository_and_makes_the_same_wheel(wheel, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: nothing says which files belong to the repository")
    listed = run("git", "ls-files", cwd=ROOT).splitlines()
    held = {name for name in listed if not name.startswith((".", "pmapde/")) and (ROOT / name).exists()}
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "pmapde", copy / "pmapde", ignore=shutil.ignore_patterns("__pycache__"))
    for name in held:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    held |= {path.relative_to(copy).as_posix() for path in (copy / "pmapde").rglob("*") if path.is_file()}
    for leftover in ("docs/_build/index.html", "docs/generated/a.rst", "docs/notebooks/a.ipynb",
                     "tests/__pycache__/a.pyc"):
        (copy / leftover).parent.mkdir(parents=True, exist_ok=True)
        (copy / leftover).write_text("what a build leaves behind")
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", copy, cwd=tmp_path)  # wheel of the sdist
    [sdist], [made] = (tmp_path / "dist").glob("*.tar.gz"), (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert {name for name in packed if "egg-info" not in name} - {"PKG-INFO"} == held
    assert set(zipfile.ZipFile(made).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_wheel_declares_what_setup_cfg_says(fresh, configuration, version, tmp_path):
    code = """
import json
from importlib.metadata import distribution
it = distribution("pmapde")
scripts = it.entry_points.select(group="console_scripts")
print(json.dumps({"version": it.version, "requires": it.requires, "python": it.metadata["Requires-Python"],
                  "license": it.metadata["License-Expression"] or it.metadata["License"],
                  "scripts": {script.name: script.value for script in scripts}}))
"""
    found = json.loads(run(fresh / "python", "-c", code, cwd=tmp_path))
    options = configuration["options"]
    expected = {line: "" for line in options["install_requires"].split()}
    for extra, lines in configuration["options.extras_require"].items():
        expected |= {line: f"extra=='{extra}'" for line in lines.split()}
    requires = (re.sub(r"""\s""", "", line).replace('"', "'").partition(";") for line in found["requires"])
    assert {name: marker for name, _, marker in requires} == expected
    assert "numba>=0.60" in expected
    assert found["version"] == version
    assert found["python"] == options["python_requires"]
    assert found["license"] == "MIT"
    assert found["scripts"] == {"pmapde": "pmapde.cli:main"}


def test_installed_package_is_the_wheel(fresh, version, tmp_path):
    code = "import pmapde, pmapde.cli; print(pmapde.__file__, pmapde.cli.__file__, pmapde.__version__, sep='\\n')"
    package, command_line, reported = run(fresh / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(fresh.parent)
    assert Path(command_line).is_relative_to(fresh.parent)
    assert reported == version


def test_commands_run_from_another_directory(fresh, version, tmp_path):
    assert version in run(fresh / "pmapde", "--version", cwd=tmp_path)
    assert "usage: pmapde" in run(fresh / "pmapde", "--help", cwd=tmp_path)
    assert "usage: pmapde" in run(fresh / "python", "-m", "pmapde", "--help", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_command_fails(fresh, tmp_path):
    for command in ([fresh / "pmapde"], [fresh / "python", "-m", "pmapde"]):
        done = subprocess.run([*command, "no-such-command"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
                              text=True)
        assert done.returncode != 0
        assert "no-such-command" in done.stderr
