"""Settings of Sphinx; `make docs` builds docs/_build/html."""
import shutil
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
configuration = ConfigParser()
configuration.read(ROOT / "setup.cfg")

project, author = "pmapde", "pmapde developers"
version = release = configuration["metadata"]["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
exclude_patterns = ["_build"]
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
