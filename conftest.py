"""Examples that need the extra `export` run where it is installed; tests/test_export.py says so where it is not."""
from importlib.util import find_spec

collect_ignore = [] if find_spec("pyevtk") and find_spec("xarray") else ["pmapde/export.py", "docs/export.md"]
