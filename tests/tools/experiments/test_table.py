"""Figures over seeds, in Markdown and json."""

import json

from experiments.table import Row, markdown, spread, write_report

ROWS = [
    Row("a", "the first", {"1": {"AP": 10.0}, "2": {"AP": 12.0}, "3": {"AP": 14.0}}),
    Row("b", "the second", {"1": {"AP": 3.0, "box": 5.0}, "2": {"failed": "no disk"}}, "a"),
]


def test_mean_and_sample_deviation_of_what_there_is():
    assert spread(ROWS[0].values("AP")) == "12.0 ± 2.0"
    assert (spread(ROWS[1].values("AP"), 2, "+"), spread(ROWS[0].values("box"))) == ("+3.00", "-")
    assert [row.heading for row in ROWS] == ["the first", "the second (1 of 2 seeds)"]


def test_report_names_settings_and_failures(tmp_path):
    table = markdown(["method", "AP"], [[row.heading, spread(row.values("AP"))] for row in ROWS])
    write_report(tmp_path, "summary", {"labeled percent": 5}, table, ROWS)
    assert (tmp_path / "summary.md").read_text().splitlines() == [
        "- labeled percent: 5", "", "| method | AP |", "| --- | --- |", "| the first | 12.0 ± 2.0 |",
        "| the second (1 of 2 seeds) | 3.0 |", "", "Without figures:", "", "- the second, seed 2: no disk",
    ]  # fmt: skip
    content = json.loads((tmp_path / "summary.json").read_text())
    first, second = content["rows"]
    assert content["settings"] == {"labeled percent": 5} and second["seeds"]["2"] == {"failed": "no disk"}
    assert (first["mean"], first["std"], second["against"]) == ({"AP": 12.0}, {"AP": 2.0}, "a")
    assert (second["mean"], second["std"]) == ({"AP": 3.0, "box": 5.0}, {"AP": None, "box": None})
