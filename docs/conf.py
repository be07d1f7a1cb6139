"""Settings of Sphinx; `make docs` builds docs/_build/html."""
import doctest
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
configuration = ConfigParser()
configuration.read(ROOT / "setup.cfg", encoding="utf-8")

project, author = "pmapde", "pmapde developers"
version = release = configuration["metadata"]["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"{project} {version}"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are run by tests/test_notebooks.py, and shown with the figures they store

autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_typehints = "none"  # shapes and types are in the docstrings
# Sphinx reads nothing outside this folder: the notebooks are copied into it.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(ROOT / "notebooks", HERE / "notebooks", ignore=shutil.ignore_patterns(".*"))


def escape_shapes(app, what, name, obj, options, lines):
    """``(d, *shape)`` in the type of a parameter is a shape, no emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"(?<=[(, ])\*(?=[\w.]+\))", r"\\*", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def draw_tutorial(app):
    """The figures of the tutorial, from the solution that its own examples end with."""
    from pmapde import plotting
    text = (HERE / "tutorial.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, "tutorial", "tutorial.md", 0)
    doctest.DocTestRunner(verbose=False).run(test, clear_globs=False)
    (HERE / "generated").mkdir(exist_ok=True)
    for name in ("densities", "deformed_grid", "interpolation"):
        getattr(plotting, name)(test.globs["solution"]).savefig(HERE / "generated" / f"{name}.png", dpi=90)


def setup(app):
    app.connect("builder-inited", draw_tutorial)
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)  # before numpydoc
