"""Readers of CSV files of points; see `istd.data.point_files` for the others."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from istd.data.names import image_key
from istd.data.text import read_text

HEADERS = {"image": "image", "filename": "image", "file_name": "image"}
HEADERS |= {name: name for name in ("x", "y", "width", "height")}


@dataclass(frozen=True)
class Entry:
    """The points of one image, in the coordinates of their file.

    Attributes:
        file: file that holds them, for messages.
        points: (x, y) as the file has them.
        size: width and height that the coordinates refer to; None for those of the image.
        index: a whole number is the center of a pixel, as in CSV; else pixel i covers i..i+1.
    """

    file: Path
    points: list[tuple[float, float]]
    size: tuple[float, float] | None = None
    index: bool = False


def read_csv(path: Path) -> dict[str, Entry]:
    """Read rows of image, x, y and optionally width and height, below a header or, in this order, without one.

    Columns are separated by commas, semicolons or tabs; the comma is a decimal sign where it separates no columns. An
    image without targets has one row without x and y.

    Returns:
        the entries by `image_key`.

    Raises:
        ValueError: a column is missing or a row is no point; the message names the file and the line.
    """
    text = read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: dict[str, int] = {}
    table: dict[str, Entry] = {}
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if not columns:
            columns = _header(cells, path)
            if columns:
                continue
            columns = {"image": 0, "x": 1, "y": 2}
        _add_row(table, _Row(cells, columns, delimiter, f"{path}, line {reader.line_num}"), path)
    if not columns:
        raise ValueError(f"{path} has no columns: image, x and y are expected.")
    return table


def _header(cells: list[str], path: Path) -> dict[str, int]:
    """Return column name -> number; it is empty if the row is a point of a file without header."""
    columns = {HEADERS[cell.lower()]: number for number, cell in enumerate(cells) if cell.lower() in HEADERS}
    if {"image", "x", "y"} <= columns.keys():
        return columns
    if not columns and len(cells) >= 3 and all(_is_number(cell) for cell in cells[1:3]):
        return {}
    raise ValueError(f"{path} has the columns {cells}: image, x and y are expected.")


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".") or 0)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Row:
    """One row of a CSV; `place` names the file and the line."""

    cells: list[str]
    columns: dict[str, int]
    delimiter: str
    place: str

    def text(self, name: str) -> str:
        number = self.columns.get(name, len(self.cells))
        return self.cells[number] if number < len(self.cells) else ""

    def number(self, name: str) -> float:
        text = self.text(name)
        value = float(text if self.delimiter == "," else text.replace(",", "."))
        if not math.isfinite(value):
            raise ValueError("it is not finite")
        return value

    def pair(self, first: str, second: str) -> tuple[float, float] | None:
        """Return two numbers, or None if both cells are empty."""
        if not self.text(first) and not self.text(second):
            return None
        return self.number(first), self.number(second)


def _add_row(table: dict[str, Entry], row: _Row, path: Path) -> None:
    key = image_key(row.text("image"))
    try:
        point = row.pair("x", "y")
        size = row.pair("width", "height")
    except ValueError as error:
        raise ValueError(f"{row.place}: x '{row.text('x')}', y '{row.text('y')}' is not a point.") from error
    if key == ".":
        raise ValueError(f"{row.place}: the name of the image is missing.")
    entry = table.setdefault(key, Entry(path, [], size, index=True))
    if point is not None:
        entry.points.append(point)
