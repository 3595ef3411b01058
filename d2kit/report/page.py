"""A page is sections of text, tables, figures, pictures and commands; its template escapes every text."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from d2kit.files import atomic_write
from d2kit.report.pictures import Picture


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: names of the columns.
        rows: cells of each row, of which the first names it.
        title: if it is not empty, the table is folded under this line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure with its heading.

    Attributes:
        title: heading.
        svg: what `d2kit.report.figures.svg` returns.
        styles: legend of the line styles, (dash, meaning) each.
        wide: whether it has a row of its own.
    """

    title: str
    svg: str
    styles: Sequence[tuple[str, str]] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page; whatever is empty is left out.

    Attributes:
        title: heading.
        text: paragraphs under it.
        tables, charts: see their classes.
        legend: (color, name) of what has a color in the galleries.
        galleries: rows of pictures with a heading each.
        commands: (purpose, command) each.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    legend: Sequence[tuple[str, str]] = ()
    galleries: Sequence[tuple[str, Sequence[Picture]]] = ()
    commands: Sequence[tuple[str, str]] = ()


def write_page(path: Path, title: str, legend: Sequence[tuple[str, str]], sections: Sequence[Section]) -> None:
    """Write a page of one file, atomically.

    Args:
        path: file to write.
        title: heading of the page.
        legend: (color, name) of what has a color throughout the page.
        sections: parts of the page, in order.

    Raises:
        OSError: the file cannot be written.
    """
    template = (resources.files("d2kit.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(title=title, legend=legend, sections=sections)
    with atomic_write(path) as file:
        file.write(page.encode(errors="backslashreplace"))  # Names of files need not be UTF-8.


def page_path(output: str | os.PathLike, name: str) -> Path:
    """Return the file that --output names: itself if it ends with .html, else the file `name` in that folder."""
    path = Path(output)
    return path if path.suffix == ".html" else path / name
