import json
from pathlib import Path

import pytest

from s4m.data.shapes import write_shapes


def test_options_reach_the_files(tool, tmp_path, capsys):
    source = write_shapes(tmp_path / "set", 2, seed=0, image_size=(48, 40))
    options = ["--json", str(source), "--images", str(source.parent / "images"), "--output", str(tmp_path / "tiles")]
    tool.main([*options, "--tile", "20", "--min-share", "1"])
    path = Path(capsys.readouterr().out.strip())
    data, whole = json.loads(path.read_text()), json.loads(source.read_text())
    assert [(i["height"], i["width"]) for i in data["images"]] == [(16, 20)] * 12
    assert len(list((tmp_path / "tiles/images").iterdir())) == 12
    complete = [a for a in data["annotations"] if not a["iscrowd"]]
    assert len(complete) < len(whole["annotations"]) < len(data["annotations"])


def test_one_sentence_says_what_is_wrong(tool, tmp_path):
    with pytest.raises(SystemExit, match="make_tiles: COCO json '.*none.json' does not exist"):
        tool.main(["--json", str(tmp_path / "none.json"), "--images", str(tmp_path), "--output", str(tmp_path / "out")])
