"""The tables of configuration keys hold every key that the packages add, each with what it means."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "extensions"))

from config_keys import added_keys, markdown_table, read_keys  # noqa: E402


@pytest.mark.parametrize("package", ["s4m", "istd"])
def test_every_added_key_has_a_row_and_a_meaning(package):
    keys = {key.name: key for key in read_keys(package) if key.default}
    assert set(keys) == added_keys(package)
    assert [name for name, key in keys.items() if not key.comment] == []


def test_a_row_shows_key_default_and_comment():
    rows = markdown_table(read_keys("s4m"))
    [row] = [row for row in rows if row.startswith("| `S4M.SD.WEIGHT`")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["`1.0`", "`[0, inf)`"]
