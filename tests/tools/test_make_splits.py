import json
from pathlib import Path

import pytest

from s4m.data.shapes import write_shapes

SCRIPT = Path(__file__).parents[2] / "tools" / "make_splits.py"


@pytest.fixture
def source(tmp_path):
    return write_shapes(tmp_path / "set", 30, seed=0, image_size=(32, 32))


def test_options_reach_the_files(tool, source, tmp_path, capsys):
    options = ["--percent", "10", "50", "--folds", "2", "--seed", "3", "--output", str(tmp_path / "out")]
    tool.main(["--json", str(source), *options, "--unlabeled", "all", "--allow-missing-classes"])
    printed = capsys.readouterr().out.split()
    assert len(printed) == 8 and sorted(printed) == sorted(map(str, (tmp_path / "out").iterdir()))
    sizes = {Path(p).stem: len(json.loads(Path(p).read_text())["images"]) for p in printed}
    assert sizes["annotations_10_fold0"] == 3 and sizes["annotations_10_fold0_unlabeled"] == 30


@pytest.mark.parametrize("document", ["README.md", "tools/make_splits.py", "tools/prepare_voc.py"])
def test_documented_commands_at_one_percent_allow_missing_classes(document):
    text = (SCRIPT.parents[1] / document).read_text()
    commands = [part.split("`")[0].split("\n\n")[0] for part in text.split("--percent 1 ")[1:]]
    assert commands and all("--allow-missing-classes" in command for command in commands)


def test_leak_ends_with_one_sentence(tool, source, tmp_path):
    with pytest.raises(SystemExit, match=r"make_splits: .*shares 30 image\(s\) with the validation set"):
        tool.main(["--json", str(source), "--percent", "50", "--val", str(source)])
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
def test_errors_are_one_sentence(tool, source, options, message):
    with pytest.raises(SystemExit, match=f"make_splits: .*{message}") as caught:
        tool.main(["--json", str(source), *options])
    assert "\n" not in str(caught.value.code)
