import logging

import pytest

from istd.data.findings import Findings


def test_causes_are_counted_and_sorted_by_level():
    findings = Findings()
    findings.add("warning", "dots", "a.png: two.")
    for name in "bcdef":
        findings.add("error", "masks", ValueError(f"{name}.png is torn."))
    assert findings.lines() == [
        "error: masks (5)",
        "    b.png is torn.",
        "    c.png is torn.",
        "    d.png is torn.",
        "    and 2 more",
        "warning: dots (1)",
        "    a.png: two.",
    ]
    assert str(findings.errors[0]) == "b.png is torn. (5 masks)"


def test_the_first_error_is_raised_as_it_was():
    findings = Findings()
    findings.raise_first()
    findings.add("error", "images", FileNotFoundError("a.png"))
    findings.add("error", "masks", "torn")
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        findings.raise_first()


def test_other_findings_are_taken_with_their_counts():
    first, second = Findings(), Findings()
    for name in "abcd":
        first.add("repaired", "dots", name, count=2)
    second.take(first, "TRAIN: ")
    second.take(first, "TRAIN: ")
    [cause] = second
    assert (cause.name, cause.count, cause.examples) == ("TRAIN: dots", 16, ["a", "b", "c"])


def test_a_cause_is_logged_once_a_process(caplog):
    findings = Findings()
    findings.add("repaired", "dots", "test_findings.png: two dots.")
    findings.add("error", "masks", "not logged")
    with caplog.at_level(logging.WARNING):
        findings.log("istd.test")
        findings.log("istd.other")
    assert [record.message for record in caplog.records] == ["test_findings.png: two dots."]
