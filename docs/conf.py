"""Sphinx configuration of the documentation: Markdown pages, pages from docstrings, tables of configuration keys."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

project = "Detectron2 S4M and ISTD"
copyright = "the authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "config_keys"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports: list[str] = []
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["autodoc.import_object.detectron2"]

_CODE = re.compile(r"``.*?``|`[^`\n]+`")
_SPECIAL = re.compile(r"([*|]|(?<=\w)_(?=\W|$))")


def _as_rest(app, what, name, obj, options, lines) -> None:
    """Let docstrings, which are plain text with code in single backticks, pass as reStructuredText."""
    for number, line in enumerate(lines):
        pieces, end = [], 0
        for match in _CODE.finditer(line):
            pieces += [_SPECIAL.sub(r"\\\1", line[end : match.start()]), f"``{match[0].strip('`')}``"]
            end = match.end()
        pieces.append(_SPECIAL.sub(r"\\\1", line[end:]))
        lines[number] = "".join(pieces)


def setup(app) -> None:
    """Convert docstrings before Napoleon reads their sections."""
    app.connect("autodoc-process-docstring", _as_rest, priority=100)
