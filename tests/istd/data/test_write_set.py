"""A checked data set is written in a form that is read as the set was."""

import shutil

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from istd.cli import main
from istd.data.datasets import load_sirst, resolve_datasets


@pytest.fixture
def root(scenes, tmp_path):
    return shutil.copytree(scenes.root, tmp_path / "a set")


@pytest.mark.parametrize("name", ["new/fixed.yaml", "fixed.json"])
def test_a_set_is_written_as_it_is_read(root, name, tmp_path, capsys):
    names = (root / "train.txt").read_text().split()
    dots = cv2.imread(str(root / "masks_centroid" / f"{names[0]}.png"), 0)
    cv2.imwrite(str(root / "masks_centroid" / f"{names[0]}.png"), cv2.dilate(dots, np.ones((3, 3))))
    cv2.imwrite(str(root / "masks" / f"{names[1]}.png"), np.zeros((3, 3), np.uint8))
    source = f"sirst:{root}:train:on_mismatch=skip"
    assert main(["check", source, "--write", str(tmp_path / name)]) == 0
    assert "dots of several pixels" in capsys.readouterr().out
    [written] = resolve_datasets([f"sirst:{tmp_path / name}"])
    records = DatasetCatalog.get(written)
    assert records == load_sirst(root, "train", on_mismatch="skip") and len(records) == len(names) - 1
    assert main(["check", written]) == 0 and "0 errors, 0 repaired, 0 warnings" in capsys.readouterr().out
    assert main(["check", source, "--write", str(tmp_path / name)]) == 1
    assert "exists: choose another name" in capsys.readouterr().err


def test_what_cannot_be_written(root, tmp_path, capsys):
    source = f"sirst:{root}:train"
    assert main(["check", source, "--write", str(tmp_path / "a.txt")]) == 1
    assert "must end in .yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", source, source, "--write", str(tmp_path / "a.yaml")])
    next((root / "masks_centroid").iterdir()).unlink()
    (root / "images" / f"{(root / 'train.txt').read_text().split()[0]}.png").write_bytes(b"")
    assert main(["check", source, "--write", str(tmp_path / "a.yaml")]) == 1
    assert "is not written, because errors" in capsys.readouterr().out
    assert not list(tmp_path.glob("a.*"))
