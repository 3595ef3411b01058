"""Two processes with half a batch each equal one with the whole: weights of samples, losses, outer gradient."""

import pytest
import torch

# Four images with clusters of their own; `chosen` says which of them a process takes. In eval mode no layer looks at
# more than one image.
STEP = """
from types import SimpleNamespace

import torch
from istd.engine.bilevel import batch_loss, outer_gradients
from istd.engine.hooks import OuterStep
from istd.engine.processes import average_over_processes
from istd.modeling import SCAM, build_network, build_vfm
from istd.modeling.feature_cache import FeatureCache
from istd.modeling.point_supervised import PointSupervisedISTD

torch.manual_seed(0)
network, vfm = build_network("ACM"), build_vfm("test_vit", "random", layers=3)
scam = SCAM(vfm.feature_dim, network.stage_channels, 3, 8, 0.5)
torch.nn.init.normal_(scam.mlp[-1].weight, std=0.5)
model = PointSupervisedISTD(network=network, scam=scam, features=FeatureCache(vfm)).eval()
model.alpha = torch.tensor([0.8, -0.5, 0.1])
clusters, grays, masks = [0, 0, 1, 2], torch.rand(4, 3, 32, 32) * 255, (torch.rand(4, 32, 32) > 0.9).float()
images = [{"image": grays[i], "pseudo_mask": masks[i], "cluster": clusters[i]} for i in chosen]
batch = model.collect(images)
found = {f"inner/{key}": value.detach() for key, value in model.inner(batch).items()}
found["weights"] = model.inner_weights(batch)
alpha = model.alpha.clone().requires_grad_()
theta = list(network.parameters())
losses = [batch_loss(OuterStep._forward(SimpleNamespace(_model=model), some), alpha) for some in (images, images[::-1])]
gradients = outer_gradients(losses[0], losses[1], theta, alpha, 0.5, average_over_processes)
found |= {"alpha": gradients.alpha, "theta": torch.cat([g.flatten() for g in gradients.theta])}
found["fraction"] = torch.tensor(gradients.fraction)
"""
ONE_OF_TWO = f"""
import sys, torch
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{{folder}}/meet", rank=rank, world_size=2)
chosen = [2 * rank, 2 * rank + 1]
{STEP}
torch.save(found, f"{{folder}}/{{rank}}.pth")
"""


def test_two_processes_weigh_samples_as_one(run_python, tmp_path):
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    running = [run_python("-c", ONE_OF_TWO, tmp_path, rank, log=log, wait=False) for rank, log in enumerate(logs)]
    whole = {"chosen": [0, 1, 2, 3]}
    exec(STEP, whole)
    for process, log in zip(running, logs, strict=True):
        assert process.wait(timeout=120) == 0, log.read_text(encoding="utf-8")[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    wanted = whole["found"]
    torch.testing.assert_close(torch.cat([part["weights"] for part in parts]), wanted["weights"])
    assert wanted["weights"].std() > 0.1 and wanted["alpha"].abs().min() > 1e-4
    for key in ("inner/loss_mask", "inner/loss_distill", "inner/loss_gate"):
        mean = sum(part[key] for part in parts) / 2
        assert mean.item() == pytest.approx(wanted[key].item(), rel=1e-5), key
    for part in parts:
        for key in ("alpha", "fraction"):
            torch.testing.assert_close(part[key], wanted[key], rtol=1e-4, atol=1e-6)
        error = (part["theta"] - wanted["theta"]).norm() / wanted["theta"].norm()
        assert error < 1e-4
