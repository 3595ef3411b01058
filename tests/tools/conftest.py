"""What the tests of the tools share; the rooms of tools/ are importable, as they are for a script that runs there."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.append(str(TOOLS))


@pytest.fixture(scope="module")
def tool(request):
    """The tool that the test module is named after, `make_tiles` for `test_make_tiles`, loaded as a module."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
