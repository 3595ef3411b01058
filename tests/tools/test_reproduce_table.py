"""The arguments of tools/reproduce_table.py."""

import pytest


def test_arguments(tool):
    args = tool.parse(["--output", "out", "--sweep", "ISTD.SCAM.SCALE", "0.05", "0.6", "--opts", "MODEL.DEVICE", "cpu"])
    assert args.sweep == ["ISTD.SCAM.SCALE", "0.05", "0.6"] and args.opts == ["MODEL.DEVICE", "cpu"]
    assert len(args.networks) == 9 and args.schemes == ("full", "semantic_prior") and args.seeds == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "ISTD.SCAM.SCALE"], "a key and at least one value"),
        (["--networks", "unet"], "invalid choice: 'unet'"),
        (["--data", "a", "--scenes", "3"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_one_sentence(tool, capsys, options, message):
    with pytest.raises(SystemExit):
        tool.parse(["--output", "out", *options])
    assert message in capsys.readouterr().err


def test_data_by_folder_and_by_synthetic_scenes(tool, tmp_path):
    folder = tool.synthetic_scenes(tmp_path / "scenes5", 5)
    assert len(list((folder / "images").iterdir())) == 5 and not (tmp_path / "scenes5.part").exists()
    first = (folder / "train.txt").stat().st_mtime_ns
    assert tool.synthetic_scenes(folder, 5) == folder and (folder / "train.txt").stat().st_mtime_ns == first
    options = tool.data_options(folder)
    assert options[::2] == ["DATASETS.TRAIN", "DATASETS.VALIDATION", "DATASETS.TEST"]
    assert options[5] == f"('sirst:{folder}:test.txt:on_mismatch=skip',)"
