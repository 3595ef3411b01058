"""Rows, data sets and figures of comparisons and ablations."""

import json
import sys

import pytest

from d2kit.config_files import compose_config
from experiments import s4m
from experiments.grid import grid_parser
from s4m import add_s4m_config
from s4m.data.shapes import write_shapes

EVERYTHING = {"SD", "PR", "ARP", "boundary", "calibration", "matching"}
SWITCHED_ON = {
    "supervised": set(),
    "stage1": {"SD"},
    "supervised_longer": set(),
    "mean_teacher": set(),
    "plus_sd": {"SD"},
    "plus_pr": {"PR"},
    "plus_arp": {"ARP"},
    "plus_boundary": {"PR", "boundary"},
    "plus_calibration": {"PR", "calibration"},
    "plus_matching": {"PR", "matching"},
    "published": {"SD", "PR", "ARP"},
    "all": EVERYTHING,
    "without_sd": EVERYTHING - {"SD"},
    "without_pr": EVERYTHING - {"PR", "matching"},
    "without_arp": EVERYTHING - {"ARP"},
    "without_boundary": EVERYTHING - {"boundary"},
    "without_calibration": EVERYTHING - {"calibration"},
    "without_matching": EVERYTHING - {"matching"},
}


def composed(training):
    return compose_config(training.files, training.options, [add_s4m_config])


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Function (*arguments) -> those of compare and ablate, in a folder of their own."""
    monkeypatch.chdir(tmp_path)

    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["tool", "--output", "out", *arguments])
        return s4m.parse_arguments(grid_parser(""))

    return parse


@pytest.mark.parametrize("student", [None, "mask2former"])
def test_switches_of_each_row(student):
    rows = s4m.trainings("shapes", student)
    by_configuration, switches = rows.pop("stage2"), {}
    for name, row in rows.items():
        cfg = composed(row)
        # The switches of stage 2 have no effect without unlabeled images.
        waiting = EVERYTHING - {"SD"} if cfg.DATASETS.UNLABELED else ()
        switches[name] = {switch for switch in waiting if cfg.S4M[switch.upper()].ENABLED}
        if cfg.S4M.SD.ENABLED or (cfg.DATASETS.UNLABELED and row.start == "stage1"):
            switches[name].add("SD")
        assert (row.start_key == "S4M.TEACHER.WEIGHTS") == bool(cfg.DATASETS.UNLABELED) and row.name == name
    assert switches == SWITCHED_ON and by_configuration.options == ()
    assert all({row.start, row.against} <= {"", *switches} for row in rows.values())
    assert len({(row.files, row.start, row.options) for row in rows.values()}) == len(rows)


def test_the_longer_baseline_has_the_schedule_of_stage_2_and_labels_alone():
    rows = s4m.trainings("dsb2018")
    longer, stage2 = composed(rows["supervised_longer"]), composed(rows["stage2"])
    assert longer.SOLVER == stage2.SOLVER and longer.S4M.TEACHER.WEIGHTS == "" and not longer.DATASETS.UNLABELED


def test_overlays_in_their_order():
    first, *overlays = s4m.config_files("dsb2018", "stage2", "mask2former", "vit")
    assert first == "configs/quick/dsb2018_stage2.yaml"
    names = ("mask2former_stage2", "dsb2018_mask2former", "vit", "dsb2018_vit", "vit_mask2former")
    assert overlays == [f"configs/quick/overlays/{name}.yaml" for name in names]
    assert s4m.config_files("shapes", "stage1", backbone="vit")[1:] == ("configs/quick/overlays/vit.yaml",)


def test_sets_of_a_json(parse, tmp_path):
    write_shapes(tmp_path / "set", 10, seed=0, image_size=(32, 32))
    given = ["set/annotations.json", "set/images"]
    args = parse("--train", *given, "--test", *given, "--percent", "20", "--seeds", "3")
    settings = s4m.data_settings(args)
    assert settings == s4m.data_settings(parse("--train", *given, "--test", f"{tmp_path}/set/annotations.json",
                                               "./set/images", "--percent", "20"))  # fmt: skip
    assert settings["training data"].startswith(f"{tmp_path}/set/annotations.json (")
    s4m.write_data(args)
    splits = tmp_path / "out" / "seed3" / "data" / "splits"
    names = [f"annotations_20_fold0{end}.json" for end in ("", "_unlabeled")]
    assert sorted(path.name for path in splits.iterdir()) == names
    for name, training in s4m.trainings("shapes").items():
        options = s4m.data_options(args, training, 3)
        sets = dict(zip(options[::2], options[1::2], strict=True))
        assert sets.pop("DATASETS.TEST") == f"('coco:{tmp_path}/set/annotations.json:{tmp_path}/set/images',)"
        assert sets.pop("DATASETS.TRAIN") == f"('coco:{splits / names[0]}:{tmp_path}/set/images',)"
        unlabeled = {"DATASETS.UNLABELED": f"('coco:{splits / names[1]}:{tmp_path}/set/images',)"}
        assert sets == ({} if name in ("supervised", "stage1", "supervised_longer") else unlabeled)


def test_synthetic_shapes_follow_the_seed(parse, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(s4m, "write_shapes_sets", lambda *arguments: made.append(arguments))
    args = parse("--seeds", "2")
    s4m.write_data(args)
    folder = tmp_path / "out" / "seed2" / "data"
    assert made == [(folder, args.percent, 2)]
    assert s4m.data_settings(args)["test data"] == "synthetic shapes"
    assert s4m.json_and_images(args, "test", 2)[1] == folder / "val" / "images"


def test_other_configurations_than_those_of_shapes_need_data(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--prefix", "dsb2018")
    assert "--prefix dsb2018 needs --train and --test" in capsys.readouterr().err


def test_train_and_test_go_together(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--train", "a.json", "images")
    assert "--train and --test go together" in capsys.readouterr().err


def test_the_last_evaluation_counts_with_the_quality_measured_before_it(tmp_path):
    quality = {f"pseudo_label_quality/{key}": value for key, value in
               {"before/precision": 0.5, "refined": 3.0, "rejected": 1.0}.items()}  # fmt: skip
    lines = [
        {"iteration": 99, "student/segm/AP": 1.0, "student/bbox/AP": 2.0},
        {"iteration": 199, **quality},
        {"iteration": 199, "student/segm/AP": 3.0, "teacher/segm/AP": 4.0, "loss": 9.0},
        {"iteration": 219, "loss": 8.0},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    figures = {"iteration": 199, "student/segm/AP": 3.0, "teacher/segm/AP": 4.0}
    assert s4m.final_figures(tmp_path) == {**figures, **quality, "pseudo_label_quality/accepted": 0.75}
    path.write_text(json.dumps(quality | {"pseudo_label_quality/refined": 0.0, "pseudo_label_quality/rejected": 0.0}
                               | lines[0]))  # fmt: skip
    assert "pseudo_label_quality/accepted" not in s4m.final_figures(tmp_path)
    path.write_text('{"iteration": 19, "loss": 1.0}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="metrics.json' holds no evaluation"):
        s4m.final_figures(tmp_path)
