"""Every shipped ISTD configuration builds, trains, saves, resumes exactly and is scored."""

import json
from pathlib import Path

import pytest
import torch

from istd.engine.trainer import ISTDTrainer
from istd.modeling import NETWORK_REGISTRY

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in [*CONFIGS.glob("istd/*_*.yaml"), *CONFIGS.glob("quick/istd_*.yaml")]
    if not path.name.startswith("Base")
)


# There are many configurations: as little work as shows a whole training and a resumed half of it.
TINY = {"ISTD__INPUT__CROP": 16, "ISTD__SCHEDULE__EVAL": 2, "ISTD__OUTER__STEPS": 1}


def train(cfg, resume: bool) -> ISTDTrainer:
    trainer = ISTDTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_there_is_a_file_for_every_network_and_scheme():
    schemes = ("full", "lesps", "pal", "semantic_prior")
    networks = {name.lower() for name, _ in NETWORK_REGISTRY}
    assert {f"istd/{network}_{scheme}.yaml" for network in networks for scheme in schemes} <= set(NAMES)
    assert len(networks) == 9


@pytest.mark.parametrize("name", NAMES)
def test_configuration_trains_and_resumes_exactly(name, istd_cfg, tmp_path):
    cfg = istd_cfg(name, OUTPUT_DIR=str(tmp_path), **TINY)
    whole = train(cfg, resume=False)
    expected = torch.load(tmp_path / "model_final.pth", weights_only=True)
    scores = json.loads((tmp_path / "test" / "results.json").read_text())
    assert "istd/IoU" in " ".join(scores["results"])
    assert (whole.data.labels is None) == name.endswith("_full.yaml")

    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert found["model"].keys() == expected["model"].keys()
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key
    assert str(found["trainer"]["hooks"].get("LabelEvolution")) == str(
        expected["trainer"]["hooks"].get("LabelEvolution")
    )
    assert not any(key.startswith(("vfm", "features")) for key in found["model"])
