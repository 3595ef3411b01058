import json
from pathlib import Path

from d2kit.commands import run_command
from s4m.commands import tiles
from s4m.data.shapes import write_shapes


def test_options_reach_the_files(tmp_path, capsys):
    source = write_shapes(tmp_path / "set", 2, seed=0, image_size=(48, 40))
    options = ["--json", str(source), "--images", str(source.parent / "images"), "--output", str(tmp_path / "tiles")]
    assert run_command(tiles, [*options, "--tile", "20", "--min-share", "1"]) == 0
    path = Path(capsys.readouterr().out.strip())
    data, whole = json.loads(path.read_text()), json.loads(source.read_text())
    assert [(i["height"], i["width"]) for i in data["images"]] == [(16, 20)] * 12
    assert len(list((tmp_path / "tiles/images").iterdir())) == 12
    complete = [a for a in data["annotations"] if not a["iscrowd"]]
    assert len(complete) < len(whole["annotations"]) < len(data["annotations"])


def test_one_sentence_says_what_is_wrong(tmp_path, capsys):
    missing = tmp_path / "none.json"
    folders = ["--images", str(tmp_path / "images"), "--output", str(tmp_path / "out")]
    assert run_command(tiles, ["--json", str(missing), *folders]) == 1
    assert f"error: COCO json '{missing}' does not exist" in capsys.readouterr().err
