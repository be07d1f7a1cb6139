"""The documentation is whole: every public name, every page, every result that it shows. (pytest runs its examples.)"""
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import pmapde

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_every_public_name_is_in_the_reference_once():
    listed = [name for block in re.findall(r":toctree: generated\n\n((?:   \w+\n)+)", PAGES["api"])
              for name in block.split()]
    assert sorted(listed) == sorted(pmapde.__all__)
    assert all(getattr(pmapde, name).__doc__ for name in listed)


def test_every_page_and_notebook_is_reached():
    contents = "\n".join(re.findall(r"```{toctree}(.*?)```", PAGES["index"], re.DOTALL)).split()
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert (PAGES.keys() - {"index"}) | notebooks <= set(contents)


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


def test_citation_is_of_this_version():
    import configparser
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == configuration["metadata"]["version"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="extra `docs` is not installed")
def test_site_is_built_without_a_warning(tmp_path):
    from sphinx.cmd.build import main
    assert main(["-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]) == 0
    assert "wasserstein_barycentre" in (tmp_path / "api.html").read_text()
