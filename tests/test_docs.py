"""The documentation is whole: every public name, every page, every result that it shows. (pytest runs its examples.)"""
import re
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import pmapde
from pmapde import exact

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def test_every_public_name_is_in_the_reference_once():
    listed = [name for block in re.findall(r":toctree: generated\n\n((?:   \w+\n)+)", PAGES["api"])
              for name in block.split()]
    assert sorted(listed) == sorted(pmapde.__all__)
    assert all(getattr(pmapde, name).__doc__ for name in listed)


def test_every_page_is_reached():
    contents = "\n".join(re.findall(r"```{toctree}(.*?)```", PAGES["index"], re.DOTALL)).split()
    assert (PAGES.keys() - {"index"}) | {"notebooks/*"} <= set(contents)


def test_results_and_files_that_pages_name_are_there():
    named = [path for text in PAGES.values() for path in re.findall(r"\.\./[\w./]+", text)]
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / "docs" / path).is_file()]
    scripts = [script for text in PAGES.values() for script in re.findall(r"benchmarks/\w+\.py", text)]
    assert scripts and not [script for script in scripts if not (ROOT / script).is_file()]


def test_limits_are_marked():
    rows = re.findall(r"^\| .* \|$", PAGES["limits"], re.MULTILINE)[1:]
    assert len(rows) > 15
    assert all(re.match("mathematical|convenience", row.replace("\\|", "").split(" | ")[1]) for row in rows)


class _MySolver:
    """Jacobi's method, for the settings that CONTRIBUTING.md shows."""

    def __init__(self, stencil):
        self.diagonal = stencil.diagonal()

    def apply(self, residual, threads=1):
        return np.pad(residual / self.diagonal, 1)


def test_what_contributing_says_of_a_linear_solver_is_enough():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(@dataclass.*?)```", text, re.DOTALL)
    names = {"dataclass": dataclass, "_MySolver": _MySolver}
    exec(code, names)
    problem = exact.separable_cosine((16, 16)).problem
    method = pmapde.PseudoTransient(linear=names["MySolver"](), nested=False)
    solution = pmapde.solve(problem, method, tolerance=1e-8)
    assert solution.success and solution.stats["linear"]["mine"]["applications"] > 10
    assert np.allclose(solution.potential, pmapde.solve(problem, tolerance=1e-8).potential, rtol=0, atol=1e-7)


def test_citation_is_of_this_version():
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == configuration["metadata"]["version"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="extra `docs` is not installed")
def test_site_is_built_without_a_warning(tmp_path):
    from sphinx.cmd.build import main
    assert main(["-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]) == 0
    assert "wasserstein_barycentre" in (tmp_path / "api.html").read_text(encoding="utf-8")
