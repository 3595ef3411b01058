"""The table of networks and schemes: its rows, data and figures."""

import json

import pytest
import yaml

from d2kit.config_files import find_config
from experiments import istd
from experiments.table import Row

DATA = "sirst:/any/data:test.txt:on_mismatch=skip"


def figures(iou, validation=50.0, teacher=None, **splits):
    values = {"epochs": 20, "seconds": 100.0, **({} if validation is None else {"validation": validation})}
    answers = {"student": {"all": iou, **splits}, "teacher": {} if teacher is None else {"all": teacher}}
    for answer, scores in answers.items():
        for split, score in scores.items():
            for name, value in zip(istd.FIGURES, (score, score - 1, 90.0, 10.0), strict=True):
                values[f"{DATA}/{answer}/{split}/{name}"] = value
    return values


def row(scheme, *seeds, variant="-"):
    title = istd.SEPARATOR.join(["mshnet", scheme, variant])
    return Row(f"mshnet_{scheme}", title, {str(seed): values for seed, values in enumerate(seeds, 1)})


def test_rows_stand_in_the_order_of_the_published_table():
    rows = istd.plan(["acm", "mshnet"], ["pal", "full"], overlays=["configs/quick/overlays/scenes.yaml"])
    assert [row.name for row in rows] == ["mshnet_full", "mshnet_pal", "acm_full", "acm_pal"]
    assert rows[1].title == "mshnet | pal | -" and rows[1].files == (
        "configs/istd/networks/mshnet.yaml", "configs/istd/schemes/pal.yaml", "configs/quick/overlays/scenes.yaml",
    )  # fmt: skip
    first, second = istd.plan(["acm"], ["pal"], ["ISTD.SCAM.SCALE", "0.05", "0.6"])
    assert first.name == "acm_pal-ISTD.SCAM.SCALE=0.05" and first.title == "acm | pal | ISTD.SCAM.SCALE=0.05"
    assert second.options == ("ISTD.SCAM.SCALE", "0.6")
    assert all(find_config(file) for row in istd.plan(istd.NETWORKS, istd.SCHEMES) for file in row.files)


def test_data_by_folder(tmp_path):
    folder = tmp_path / "scenes5"
    options = istd.data_options(folder)
    assert options[::2] == ["DATASETS.TRAIN", "DATASETS.VALIDATION", "DATASETS.TEST"]
    assert options[5] == f"('sirst:{folder}:test.txt:on_mismatch=skip',)"


def test_figures_of_student_teacher_and_characteristics(tmp_path):
    config = {"ISTD": {"SCHEDULE": {"EPOCHS": 7}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FileNotFoundError):
        istd.final_figures(tmp_path)
    values = {"istd/IoU": 60.0, "istd/AUC": 0.9, "istd/Fa-faint": 3.0, "istd/Pd-faint": None, "istd_teacher/IoU": 62.0}
    (tmp_path / "test").mkdir()
    results = {"results": {f"{DATA}/{key}": value for key, value in values.items()}}
    (tmp_path / "test" / "results.json").write_text(json.dumps(results))
    expected = {"epochs": 7, f"{DATA}/student/all/IoU": 60.0, f"{DATA}/student/faint/Fa": 3.0}
    expected[f"{DATA}/teacher/all/IoU"] = 62.0
    assert istd.final_figures(tmp_path) == expected
    (tmp_path / "model_best.json").write_text('{"metric": 41.5, "iteration": 3}')
    assert istd.final_figures(tmp_path) == {**expected, "validation": 41.5}


def test_tables_of_the_whole_set_and_of_each_characteristic():
    rows = [
        row("full", figures(50.0, zebra=1.0, faint=20.0, salient=3.0), figures(54.0), {"failed": "no disk"}),
        row("semantic_prior", figures(60.0, None, teacher=64.0)),
    ]
    text = istd.all_tables(rows)
    assert text.startswith(f"## {DATA}\n\n### all\n\n| Network | Scheme | Variant | Answer |")
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### all", "### salient", "### faint", "### zebra",
    ]  # fmt: skip
    student = "20 | 1, 2 | 50.00 ± 0.00 | 52.00 ± 2.83 | 51.00 ± 2.83 | 90.00 ± 0.00 | 10.00 ± 0.00 | 100 ± 0 |"
    assert f"| mshnet | full | - | student | {student}" in text
    assert "| mshnet | semantic_prior | - | teacher | 20 | 1 | - | 64.00 | 63.00 | 90.00 | 10.00 | 100 |" in text
    assert "| 20.00 | 19.00 |" in text[text.index("### faint") :] and "Best" not in text
    assert istd.all_tables([row("full", {"failed": "not run"})]) == ""


def test_the_validation_images_choose_the_variant():
    rows = [
        row("full", figures(90.0, 40.0), variant="S=0.1"),
        row("full", figures(10.0, 50.0), figures(10.0, 44.0), variant="S=0.3"),
        row("full", figures(95.0, None), variant="S=0.6"),
        row("pal", figures(99.0, 99.0)),
    ]
    assert istd.best_of_sweep(rows) == [["mshnet", "full", "S=0.3"]]
    assert istd.all_tables(rows).endswith("| mshnet | full | S=0.3 |")
