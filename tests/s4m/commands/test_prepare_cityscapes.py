import json
from pathlib import Path

import pytest

from d2kit.commands import run_command
from s4m.commands import prepare_cityscapes


def images(path):
    return {image["file_name"] for image in json.loads(Path(path).read_text())["images"]}


def test_writes_the_json_and_nested_fractions(cityscapes_tree, tmp_path, capsys):
    root = ["--root", str(cityscapes_tree / "cityscapes"), "--output", str(tmp_path)]
    assert run_command(prepare_cityscapes, [*root, "--percent", "20", "50", "--folds", "2"]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(path) for path in tmp_path.rglob("*.json")) and len(printed) == 1 + 8
    small, large = (images(tmp_path / "splits" / f"instances_train_{p}_fold1.json") for p in (20, 50))
    rest = images(tmp_path / "splits" / "instances_train_50_fold1_unlabeled.json")
    assert small < large and (len(small), len(large), len(rest)) == (2, 5, 5) and not large & rest


def test_absent_folder_ends_with_one_sentence(tmp_path, capsys):
    pytest.importorskip("cityscapesscripts")
    assert run_command(prepare_cityscapes, ["--root", str(tmp_path)]) == 1
    assert "leftImg8bit/train' holds no image" in capsys.readouterr().err
