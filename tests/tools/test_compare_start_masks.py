"""The table of rules for the first mask of a point."""

import pytest
from detectron2.data import DatasetCatalog

from experiments.start_masks import read_samples, rule_ious
from istd.data.synthetic import write_scenes


def test_the_table_has_every_rule_of_every_set(tool, tmp_path, capsys):
    write_scenes(tmp_path / "scenes", 6, seed=3, size=(48, 64), splits=(0.6, 0.2), empty_share=0.0)
    name = f"sirst:{tmp_path / 'scenes'}:train.txt"
    tool.main([name, "--scenes", "3", "--blur", "1", "--fit", "2", "--draws", "2"])
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert header == f"| rule | {name} (4) | scenes, blur 1 (3) |"
    ious = rule_ious(read_samples(DatasetCatalog.get(name)))
    assert [row.split(" | ")[:2] for row in rows[:-1]] == [[f"| {rule}", f"{iou:.1f}"] for rule, iou in ious.items()]
    assert rows[-1].startswith("| 2 true masks | ") and rows[-1].count("±") == 2


def test_no_set_is_one_sentence(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main([])
    assert "name a data set, or a number of --scenes" in capsys.readouterr().err
