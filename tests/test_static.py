"""The style and the types that pyproject.toml asks for."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", [("ruff", "check", "--no-cache", "."), ("mypy", "--cache-dir=/dev/null")],
                         ids=lambda command: command[0])
def test_tool_finds_nothing(command):
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (extra `test`)")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
