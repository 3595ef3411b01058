"""Every network composes with every scheme, and each of both trains, resumes exactly and is scored."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.engine.trainer import ISTDTrainer
from istd.modeling import NETWORK_REGISTRY

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NETWORKS = sorted(path.stem for path in (CONFIGS / "istd" / "networks").glob("*.yaml"))
SCHEMES = sorted(path.stem for path in (CONFIGS / "istd" / "schemes").glob("*.yaml"))
# As little work as shows a whole training and a resumed half of it.
TINY = {"ISTD__INPUT__CROP": 16, "ISTD__SCHEDULE__EVAL": 2, "ISTD__OUTER__STEPS": 1}


def train(cfg, resume: bool) -> ISTDTrainer:
    trainer = ISTDTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_there_is_a_file_for_every_network_and_scheme():
    assert sorted(name.lower() for name, _ in NETWORK_REGISTRY) == NETWORKS and len(NETWORKS) == 9
    assert SCHEMES == ["full", "lesps", "pal", "regions", "semantic_prior"]


@pytest.mark.parametrize(("network", "scheme"), product(NETWORKS, SCHEMES))
def test_a_scheme_changes_nothing_of_the_network(network, scheme):
    alone, both = (
        compose_config([f"istd/networks/{network}.yaml", *overlays], add_keys=[add_istd_config])
        for overlays in ([], [f"istd/schemes/{scheme}.yaml"])
    )
    assert both.ISTD.NETWORK == alone.ISTD.NETWORK and both.SOLVER == alone.SOLVER
    assert both.ISTD.SCAM.LR == alone.ISTD.SCAM.LR and both.ISTD.INPUT == alone.ISTD.INPUT
    assert (both.ISTD.LABELS.SOURCE == "masks") == (scheme == "full")
    assert (scheme in ("lesps", "pal", "semantic_prior")) == both.ISTD.EVOLUTION.ENABLED
    assert (scheme in ("pal", "semantic_prior")) == both.ISTD.MINING.ENABLED
    assert (both.ISTD.LABELS.START == "regions") == (scheme == "regions")
    assert both.ISTD.SCAM.ENABLED == both.ISTD.OUTER.ENABLED == (scheme == "semantic_prior")


# Each network once with everything on, each scheme once, and the overlay for a CPU.
@pytest.mark.parametrize(
    "name", [*(f"{n}_semantic_prior" for n in NETWORKS), *(f"alcnet_{s}" for s in SCHEMES[:4]), "quick_semantic_prior"]
)
def test_a_run_trains_and_resumes_exactly(name, istd_cfg, tmp_path):
    cfg = istd_cfg(name, OUTPUT_DIR=str(tmp_path), **TINY)
    whole = train(cfg, resume=False)
    expected = torch.load(tmp_path / "model_final.pth", weights_only=True)
    scores = json.loads((tmp_path / "test" / "results.json").read_text())
    assert "istd/IoU" in " ".join(scores["results"])
    assert (whole.data.labels is None) == name.endswith("_full")

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
