import numpy as np
import pytest
from PIL import Image

from istd.data.clusters import ClusterTable, make_clusters
from istd.data.datasets import load_sirst
from istd.data.images import read_infrared


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :50]
    for index in range(10):
        smooth, noise = rows + columns + index, rng.integers(0, 250, (40, 50))
        Image.fromarray((noise if index % 2 else smooth).astype(np.uint8)).save(tmp_path / "images" / f"i{index}.png")
    (tmp_path / "train.txt").write_text("".join(f"i{index}\n" for index in range(8)))
    (tmp_path / "val.txt").write_text("i8\ni9\n")
    return tmp_path


def test_training_images_are_clustered_and_validation_images_assigned(tool, root, capsys):
    output = root / "out" / "c.json"
    train, val = (f"sirst:{root}:{split}:points=,masks=" for split in ("train", "val"))
    assert tool.main([train, "--assign", val, "--output", str(output), "--seed", "1"]) == 0
    assert "10 images in 2 clusters" in capsys.readouterr().out
    dicts, others = load_sirst(root, "train", points="", masks=""), load_sirst(root, "val", points="", masks="")
    assert dict(ClusterTable.load(output)) == dict(make_clusters(dicts, read_infrared, assigned=others, seed=1))
    assert len(dicts) == 8 and list(ClusterTable.load(output)) == [f"i{index}" for index in range(10)]


@pytest.mark.parametrize(
    "split, extra, message", [("none", [], "none does not exist"), ("train", ["--clusters", "-1"], "0 or more")]
)
def test_a_mistake_is_one_sentence(tool, root, capsys, split, extra, message):
    output = root / "c.json"
    assert tool.main([f"sirst:{root}:{split}:points=,masks=", "--output", str(output), *extra]) == 1
    assert message in capsys.readouterr().err and not output.exists()
