"""The options that comparisons and ablations share."""

import argparse
import sys

import pytest

from s4m.data.shapes import write_shapes
from s4m.engine.arguments import data_of, parse_arguments, settings_of
from s4m.engine.compare import RUNS


@pytest.fixture
def parse(monkeypatch, tmp_path):
    def parse(*argv):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tool", "--output", "out", *argv])
        return parse_arguments(argparse.ArgumentParser())

    return parse


def test_one_data_set_under_any_spelling_of_its_path(parse, tmp_path):
    paths = ["a.json", "images"], [str(tmp_path / "a.json"), f"{tmp_path}/./images"]
    first, second = (settings_of(parse("--train", *some, "--test", *some), RUNS.values()) for some in paths)
    assert first == second and first["training data"] == f"{tmp_path}/a.json {tmp_path}/images"
    shapes = settings_of(parse("--opts", "SEED", "4"), RUNS.values())
    assert (shapes["training data"], shapes["options"]) == ("synthetic shapes", "SEED 4")
    assert shapes["configurations' digest"] == first["configurations' digest"]
    assert (
        settings_of(parse("--prefix", "dsb2018"), RUNS.values())["configurations' digest"]
        != first["configurations' digest"]
    )


def test_sets_of_a_json(parse, tmp_path):
    write_shapes(tmp_path / "set", 10, seed=0, image_size=(32, 32))
    given = ["set/annotations.json", "set/images"]
    data = data_of(parse("--train", *given, "--test", *given, "--percent", "20"), seed=3)
    assert data.test == f"coco:{tmp_path}/set/annotations.json:{tmp_path}/set/images"
    splits = tmp_path / "out" / "seed3" / "splits"
    assert data.labeled == f"coco:{splits}/annotations_20_fold0.json:{tmp_path}/set/images"
    assert sorted(path.name for path in splits.iterdir()) == [
        "annotations_20_fold0.json", "annotations_20_fold0_unlabeled.json",
    ]  # fmt: skip


def test_train_and_test_go_together(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--train", "a.json", "images")
    assert "--train and --test go together" in capsys.readouterr().err
