import json
import re
from pathlib import Path

import pytest

from d2kit.commands import run_command
from s4m.commands import prepare_voc, split
from s4m.data.shapes import write_shapes


@pytest.fixture
def source(tmp_path):
    return write_shapes(tmp_path / "set", 30, seed=0, image_size=(32, 32))


def test_options_reach_the_files(source, tmp_path, capsys):
    options = ["--percent", "10", "50", "--folds", "2", "--seed", "3", "--output", str(tmp_path / "out")]
    assert not run_command(split, ["--json", str(source), *options, "--unlabeled", "all", "--allow-missing-classes"])
    printed = capsys.readouterr().out.split()
    assert len(printed) == 8 and sorted(printed) == sorted(map(str, (tmp_path / "out").iterdir()))
    sizes = {Path(p).stem: len(json.loads(Path(p).read_text())["images"]) for p in printed}
    assert sizes["annotations_10_fold0"] == 3 and sizes["annotations_10_fold0_unlabeled"] == 30


@pytest.mark.parametrize("module", [split, prepare_voc])
def test_documented_commands_at_one_percent_allow_missing_classes(module):
    commands = [part.split("\n\n")[0] for part in module.__doc__.split("--percent 1 ")[1:]]
    assert commands and all("--allow-missing-classes" in command for command in commands)


def test_leak_ends_with_one_sentence(source, capsys):
    assert run_command(split, ["--json", str(source), "--percent", "50", "--val", str(source)]) == 1
    assert "shares 30 image(s) with the validation set" in capsys.readouterr().err
    assert not (source.parent / "splits").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--percent", "1"], "1 % of 30 images is no image"),
        (["--percent", "4"], "4 % .* leaves no image of the class .* or go on with --allow-missing-classes"),
        (["--percent", "50", "--image-root", "nowhere"], "which does not exist"),
        (["--percent", "50", "--val", "none.json"], "'none.json' does not exist"),
    ],
)
def test_errors_are_one_sentence(source, options, message, capsys):
    assert run_command(split, ["--json", str(source), *options], "s4m split") == 1
    assert re.fullmatch(f"s4m split: error: .*{message}.*\n", capsys.readouterr().err)
