"""Network files: writing, reading, wrong ones, and running a network at any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from istd.checkpoints import Recipe, load_network, save_network
from istd.deploy.runners import run_network
from istd.modeling import build_network


@pytest.fixture(scope="module")
def acm():
    torch.manual_seed(0)
    return build_network("ACM", in_channels=1, norm="BN").eval(), Recipe("ACM", {"in_channels": 1, "norm": "BN"})


def test_round_trip(acm, tmp_path):
    network, recipe = acm
    save_network(tmp_path / "folder" / "acm.pth", network, recipe)
    again, found = load_network(tmp_path / "folder" / "acm.pth")
    assert found == recipe and not again.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


def test_published_layout_is_recognized(acm, tmp_path):
    alcnet = build_network("ALCNet", in_channels=3, norm="GN")
    for network, name, channels, norm in ((acm[0], "ACM", 1, "BN"), (alcnet, "ALCNet", 3, "GN")):
        state = {"model." + key.replace("classifier.", "head."): v for key, v in network.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "published.pth.tar")
        again, recipe = load_network(tmp_path / "published.pth.tar")
        assert recipe == Recipe(name, {"in_channels": channels, "norm": norm}, pad_always=True)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


def test_other_files_are_refused(acm, tmp_path):
    path = tmp_path / "other.pth"
    with pytest.raises(FileNotFoundError, match="--files names the checkpoint '.*other.pth'"):
        load_network(path, "--files")
    torch.save([1], path)
    with pytest.raises(ValueError, match="other.pth' is not a checkpoint .* .it holds a value of the type list"):
        load_network(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="other.pth' holds no ISTD network"):
        load_network(path)
    torch.save({"state_dict": {"model.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="other.pth' holds neither ACM nor ALCNet"):
        load_network(path)
    save_network(path, acm[0], Recipe("ALCNet"))
    with pytest.raises(ValueError, match="other.pth' does not hold the weights of ALCNet"):
        load_network(path)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("size", [(32, 64), (96, 135)])
def test_a_runner_normalizes_and_pads(acm, size, always):
    network, _ = acm
    recipe = Recipe("ACM", {"in_channels": 1, "norm": "BN"}, mean=10, std=2, pad_multiple=32, pad_always=always)
    gray = np.random.default_rng(0).uniform(0, 255, size).astype(np.float32)
    height, width = ((s // 32 + 1) * 32 if always else -(-s // 32) * 32 for s in size)
    padded = torch.zeros(1, 1, height, width)
    padded[..., : size[0], : size[1]] = (torch.from_numpy(gray) - 10) / 2
    with torch.no_grad():
        wanted = network(padded).sigmoid()[0, 0, : size[0], : size[1]].numpy()
    assert np.allclose(run_network(network, recipe)(gray), wanted, atol=1e-6)


def test_a_runner_repeats_the_gray_image():
    network = build_network("MLCLNet").eval()
    gray = np.random.default_rng(0).uniform(0, 255, (16, 16)).astype(np.float32)
    x = ((torch.from_numpy(gray) - 95.010) / 41.511).repeat(1, 3, 1, 1)
    with torch.no_grad():
        wanted = network(torch.nn.functional.pad(x, (0, 16, 0, 16))).sigmoid()[0, 0, :16, :16]
    assert np.allclose(run_network(network, Recipe("MLCLNet"))(gray), wanted.numpy(), atol=1e-6)


def test_a_network_for_dark_targets_is_fed_inverted_images(acm, tmp_path):
    network, recipe = acm
    recipe = replace(recipe, polarity="dark")
    gray = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.float32)
    save_network(tmp_path / "dark.pth", network, recipe)
    loaded, loaded_recipe = load_network(tmp_path / "dark.pth")
    wanted = run_network(loaded, replace(recipe, polarity="bright"))(255 - gray)
    assert np.array_equal(run_network(loaded, loaded_recipe)(gray), wanted)
