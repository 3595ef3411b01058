import logging

import pytest

from d2kit.faults import ERROR, Faults, log_once


def test_faults_are_counted_and_sorted_by_level():
    faults = Faults("set.json")
    assert faults.lines() == ["set.json:", "  no fault"]
    faults.warning("dots", "a.png: two.", count=2)
    faults.warning("1 image is there twice")
    for name in "bcdef":
        faults.error("masks", ValueError(f"{name}.png is torn."))
    assert faults.lines() == [
        "set.json:",
        "  error: masks (5)",
        "    b.png is torn.",
        "    c.png is torn.",
        "    d.png is torn.",
        "  warning: dots (2)",
        "    a.png: two.",
        "  warning: 1 image is there twice",
    ]
    assert str(faults.of(ERROR)[0]) == "masks: 5, for example b.png is torn.; c.png is torn.; d.png is torn."


@pytest.mark.parametrize(
    ("where", "sentence"),
    [("", "a.png is torn"), ("set.json", "set.json: a.png is torn")],
)
def test_the_first_error_is_raised_with_the_count_of_the_others(where, sentence):
    faults = Faults(where)
    faults.refuse()
    faults.error("images", FileNotFoundError("a.png is torn"))
    with pytest.raises(FileNotFoundError) as caught:
        faults.refuse()
    assert str(caught.value) == sentence
    faults.error("masks", "b.png is torn")
    with pytest.raises(FileNotFoundError) as caught:
        faults.refuse()
    assert str(caught.value) == f"{sentence} (1 more: the command check lists all)"


def test_a_file_can_be_the_subject():
    faults = Faults("'set.json'")
    faults.error("images", "lists no image")
    with pytest.raises(ValueError, match="^'set.json' lists no image$"):
        faults.refuse()


def test_repairs_and_warnings_are_logged(caplog):
    faults = Faults("TRAIN")
    faults.repaired("dots", "a.png: two dots.")
    faults.error("masks", "not logged")
    with caplog.at_level(logging.WARNING):
        faults.log()
    assert [record.message for record in caplog.records] == ["TRAIN: dots: 1, for example a.png: two dots."]


def test_readers_log_one_sentence_of_a_kind(caplog):
    for name in ("test_faults_a.png", "test_faults_b.png"):
        log_once("warning", "dots of test_faults", f"{name}: two dots.")
    [record] = caplog.records
    assert record.message == "test_faults_a.png: two dots. Others with dots of test_faults are not named."
