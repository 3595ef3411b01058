"""The converter, and the published networks' scores on real images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2kit.commands import run_command
from istd.checkpoints import Recipe, load_network, save_network
from istd.commands import convert
from istd.data.datasets import load_sirst
from istd.deploy.runners import run_network
from istd.deploy.score import score_images
from istd.modeling import build_network


@pytest.fixture
def published(tmp_path) -> Path:
    torch.manual_seed(0)
    network = build_network("ACM", in_channels=1, norm="BN", output_bias=-4.0)
    state = {"model." + key.replace("classifier.", "head."): value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "ACM_full.pth.tar")
    return tmp_path / "ACM_full.pth.tar"


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (40, 50), np.uint8)).save(tmp_path / "set" / "images" / f"{name}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[10:13, 20:24] = 255
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{name}.png")
    (tmp_path / "set" / "test.txt").write_text("a\nb\n")
    return tmp_path / "set"


def test_converts_and_scores(published, folder, tmp_path, capsys):
    arguments = [str(published), "--output", str(tmp_path / "out"), "--evaluate", str(folder)]
    assert run_command(convert, arguments) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[0] == "ACM_full.pth.tar" and line[1:6] == ["2", "0.00", "0.00", "0.00", "0.00"]
    network, recipe = load_network(tmp_path / "out" / "ACM_full.pth")
    assert recipe == Recipe("ACM", {"in_channels": 1, "norm": "BN"}, 95.010, 41.511, 32, True)
    assert network.output_layer().bias.item() == -4


def test_converted_files_score_the_same(published, folder, tmp_path, capsys):
    network, recipe = load_network(published)
    torch.nn.init.zeros_(network.output_layer().weight)
    torch.nn.init.ones_(network.output_layer().bias)
    save_network(tmp_path / "all_on.pth", network, recipe)
    run_command(convert, [str(tmp_path / "all_on.pth"), "--evaluate", str(folder), "--limit", "1"])
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[1:4] == ["1", f"{100 * 12 / 2000:.2f}", f"{100 * 12 / 2000:.2f}"]


def test_nothing_to_do(published):
    with pytest.raises(SystemExit) as error:
        run_command(convert, [str(published)])
    assert error.value.code == 2


# IoU, nIoU, Pd, Fa on every twelfth test image. On all 153 images with a mask of their size the six files are within
# 0.7 IoU of what is published for 213.
PINNED = {
    "ACM_full": (71.77, 59.55, 92.31, 0.00),
    "ALCNet_LESPS_centroid": (48.69, 41.66, 100.00, 0.00),
}


@pytest.mark.parametrize("name", PINNED)
def test_published_networks_on_real_images(shared, name):
    network, recipe = load_network(shared / "data" / "lesps_checkpoints" / f"{name}.pth.tar")
    records = load_sirst(shared / "data" / "sirst", "test.txt", points="", on_mismatch="skip")
    assert len(records) == 153
    scores = score_images(run_network(network, recipe), records[::12])
    assert [scores[key] for key in ("IoU", "nIoU", "Pd", "Fa")] == pytest.approx(PINNED[name], abs=0.1)
