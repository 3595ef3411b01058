import json
from pathlib import Path

from d2kit.commands import run_command
from s4m.commands import prepare_voc


def images(path):
    return {image["file_name"] for image in json.loads(Path(path).read_text())["images"]}


def test_writes_jsons_and_nested_splits_of_the_augmented_set(voc_tree, tmp_path, capsys):
    options = ["--percent", "25", "50", "--folds", "2", "--seed", "3", "--unlabeled", "more"]
    folders = ["--voc", str(voc_tree.voc), "--sbd", str(voc_tree.sbd), "--output", str(tmp_path)]
    assert run_command(prepare_voc, [*folders, *options, "--allow-missing-classes"]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(p) for p in tmp_path.rglob("*.json")) and len(printed) == 4 + 8
    for fold in (0, 1):
        small, large = (images(tmp_path / "splits" / f"instances_train_aug_{p}_fold{fold}.json") for p in (25, 50))
        assert small < large and (len(small), len(large)) == (2, 4)
        rest = images(tmp_path / "splits" / f"instances_train_aug_50_fold{fold}_unlabeled.json")
        assert not rest & large and len(rest | large) == 8
        assert not (rest | large) & images(tmp_path / "instances_val.json")


def test_without_sbd_the_lists_are_split(voc_tree, tmp_path, capsys):
    options = ["--voc", str(voc_tree.voc), "--output", str(tmp_path), "--percent", "34", "--folds", "1"]
    assert run_command(prepare_voc, options) == 0
    names = [Path(path).name for path in capsys.readouterr().out.split()]
    assert names[:2] == ["instances_val.json", "instances_train.json"]
    assert names[2:] == ["instances_train_34_fold0.json", "instances_train_34_fold0_unlabeled.json"]


def test_leak_and_absent_folder_end_with_one_sentence(voc_tree, tmp_path, capsys):
    leak = ["--voc", str(voc_tree.voc), "--output", str(tmp_path), "--lists", "trainval"]
    assert run_command(prepare_voc, leak) == 1
    assert "error: list 'trainval' shares 2 image(s)" in capsys.readouterr().err
    assert run_command(prepare_voc, ["--voc", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err
