"""The table: what it reads of a run, means and deviations over seeds, Markdown, the choice of a variant."""

import json
import math

import pytest
import yaml

from istd.evaluation.table import RunResult, best_variants, format_markdown, read_figures, read_run, summarize

DATA = "sirst:/some/data:test.txt:on_mismatch=skip"


def figures(iou, **splits):
    values = {"all": iou, **splits}
    return {split: {"IoU": value, "nIoU": value - 1, "Pd": 90.0, "Fa": 10.0} for split, value in values.items()}


def result(seed, iou, *, validation=50.0, variant="", teacher=None, **splits):
    answers = {"student": figures(iou, **splits)}
    if teacher is not None:
        answers["teacher"] = figures(teacher)
    scheme = "full" if teacher is None else "semantic_prior"
    return RunResult("MSHNet", scheme, variant, seed, 20, 100.0 * seed, validation, {DATA: answers})


@pytest.fixture
def finished(tmp_path):
    """A folder as a training leaves it."""
    values = {"istd/IoU": 60.0, "istd/AUC": 0.9, "istd/Fa-faint": 3.0, "istd/Pd-faint": None, "istd_teacher/IoU": 62.0}
    (tmp_path / "test").mkdir()
    results = {f"{DATA}/{key}": value for key, value in values.items()}
    (tmp_path / "test" / "results.json").write_text(json.dumps({"results": results}))
    config = {"ISTD": {"NETWORK": {"NAME": "MSHNet"}, "SCHEDULE": {"EPOCHS": 7}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_reads_student_teacher_and_characteristics(finished):
    assert read_figures(finished / "test" / "results.json") == {
        DATA: {"student": {"all": {"IoU": 60.0}, "faint": {"Fa": 3.0}}, "teacher": {"all": {"IoU": 62.0}}}
    }


def test_reads_a_run_with_and_without_validation(finished):
    run = read_run(finished, scheme="pal", variant="", seed=3, seconds=9.0)
    assert (run.network, run.epochs, run.seed, run.seconds) == ("MSHNet", 7, 3, 9.0) and math.isnan(run.validation)
    (finished / "model_best.json").write_text('{"metric": 41.5, "iteration": 3}')
    assert read_run(finished, scheme="pal", variant="", seed=3, seconds=9.0).validation == 41.5


def test_mean_and_sample_deviation_over_seeds():
    runs = [result(1, 50.0, faint=20.0), result(2, 54.0), result(1, 60.0, teacher=64.0)]
    student, semantic, teacher = summarize(runs)
    assert student["seeds"] == [1, 2] and student["answer"] == "student" and student["scheme"] == "full"
    assert student["figures"]["all"]["IoU"] == {"mean": 52.0, "std": pytest.approx(8**0.5), "values": [50.0, 54.0]}
    assert student["figures"]["faint"]["IoU"] == {"mean": 20.0, "std": None, "values": [20.0]}
    assert student["seconds"]["mean"] == 150.0
    assert semantic["answer"] == "student" and teacher["answer"] == "teacher"
    assert teacher["figures"]["all"]["IoU"]["mean"] == 64.0 and list(teacher["figures"]) == ["all"]
    assert summarize([]) == []
    json.dumps([student, semantic, teacher], allow_nan=False)


def test_characteristics_stand_in_the_order_of_the_paper():
    (row,) = summarize([result(1, 50.0, zebra=1.0, camouflaged=2.0, salient=3.0)])
    assert list(row["figures"]) == ["all", "salient", "camouflaged", "zebra"]


def test_markdown():
    rows = summarize([result(1, 50.0, faint=20.0), result(2, 54.0), result(1, 60.0, teacher=64.0)])
    text = format_markdown(rows, "A note.", {"acm_pal/seed1": "no disk"})
    assert text.startswith("A note.\n\n## " + DATA)
    assert "| MSHNet | full | student | 20 | 1, 2 | 50.00 ± 0.00 | 52.00 ± 2.83 | 51.00 ± 2.83 | 90.00 ± 0.00 |" in text
    assert "| MSHNet | semantic_prior | teacher | 20 | 1 | 50.00 | 64.00 | 63.00 | 90.00 | 10.00 |" in text
    faint = text[text.index("### faint") :]
    assert "| 20.00 | 19.00 |" in faint and "teacher" not in faint and "| Variant |" not in text
    assert "- acm_pal/seed1: no disk" in text and "Best variants" not in text
    assert format_markdown([]) == ""


def test_what_has_no_value_is_a_dash():
    (row,) = summarize([result(1, 50.0, validation=math.nan)])
    assert row["validation"] == {"mean": None, "std": None, "values": []}
    assert "| 1 | – | 50.00 |" in format_markdown([row])


def test_the_validation_images_choose_the_variant():
    runs = [
        result(1, 90.0, variant="S=0.1", validation=40.0),
        result(1, 10.0, variant="S=0.3", validation=50.0),
        result(2, 10.0, variant="S=0.3", validation=44.0),
        result(1, 95.0, variant="S=0.6", validation=math.nan),
        result(1, 99.0, validation=99.0),
    ]
    rows = summarize(runs)
    assert best_variants(rows) == {("MSHNet", "full"): "S=0.3"}
    text = format_markdown(rows)
    assert text.endswith("| MSHNet | full | S=0.3 |\n") and "| Variant |" in text
