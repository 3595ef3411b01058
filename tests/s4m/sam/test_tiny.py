"""The tiny SAM: its size, and what the package tells of its weights."""

import json
from pathlib import Path

import torch

import s4m.sam
from s4m.sam.tiny import TinyEncoder, build_tiny_sam

FOLDER = Path(s4m.sam.__file__).parent


def test_shapes_and_size():
    assert TinyEncoder()(torch.zeros(2, 3, 128, 128)).shape == (2, 128, 16, 16)
    assert 1e6 < sum(p.numel() for p in build_tiny_sam().parameters()) < 2e6
    assert (FOLDER / "tiny_sam.pth").stat().st_size < 5e6


def test_the_package_tells_how_the_weights_came_to_be():
    facts = json.loads((FOLDER / "tiny_sam.json").read_text())
    assert {"command", "seed", "iterations", "minutes", "machine", "parameters", "held_out"} <= set(facts)
    assert facts["parameters"] == sum(p.numel() for p in build_tiny_sam().parameters())
    assert {"miou_1_point", "miou_3_points", "miou_box"} <= set(facts["held_out"])
