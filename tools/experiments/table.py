"""Tables show a grid's figures, mean ± standard deviation over seeds, in Markdown and json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2kit.files import atomic_write
from experiments.record import write_json


@dataclass(frozen=True)
class Row:
    """A row is a training over seeds; name, title and against are those of `grid.Training`."""

    name: str
    title: str
    seeds: Mapping[str, Mapping[str, Any]]  # Each seed has its figures, or {"failed": reason}.
    against: str = ""

    def values(self, key: str) -> list[float]:
        """Return a figure of each seed that has it."""
        return [figures[key] for figures in self.seeds.values() if key in figures]

    @property
    def failures(self) -> dict[str, str]:
        """The reason, by seed, why there are no figures."""
        return {seed: figures["failed"] for seed, figures in self.seeds.items() if "failed" in figures}

    @property
    def heading(self) -> str:
        """The title, and how many seeds have figures unless all have."""
        finished = len(self.seeds) - len(self.failures)
        return self.title + (f" ({finished} of {len(self.seeds)} seeds)" if self.failures else "")


def spread(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """Return the mean ± the sample standard deviation as text: for one value the mean alone, for none a dash."""
    if not values:
        return "-"
    text = f"{mean(values):{sign}.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def write_report(output: Path, name: str, settings: Mapping[str, Any], tables: str, rows: Sequence[Row]) -> None:
    """Write `NAME.md` (settings, tables, and what has no figures) and `NAME.json` (settings and rows).

    A row of the json has, besides its own attributes, "mean" and "std" over seeds of every figure that is a number;
    the deviation of one value is null.
    """
    lines = [*(f"- {key}: {value}" for key, value in settings.items()), "", tables]
    failures = [f"- {row.title}, seed {seed}: {reason}" for row in rows for seed, reason in row.failures.items()]
    if failures:
        lines += ["", "Without figures:", "", *failures]
    with atomic_write(output / f"{name}.md", "w") as file:
        file.write("\n".join(lines) + "\n")
    summaries = []
    for row in rows:
        values = {key: row.values(key) for figures in row.seeds.values() for key in figures if key != "failed"}
        means = {key: mean(numbers) for key, numbers in values.items()}
        deviations = {key: stdev(numbers) if len(numbers) > 1 else None for key, numbers in values.items()}
        summaries.append({**asdict(row), "mean": means, "std": deviations})
    write_json(output / f"{name}.json", {"settings": settings, "rows": summaries})
