"""Two CPU processes under Detectron2's `launch`: they train, evaluate and resume, and equal one process."""

import json

import pytest
import torch
from detectron2.engine import launch
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm

from s4m.pseudo_labels.calibration import ConfidenceCalibration

# Nothing is sub-sampled, and no layer looks at more than one image: what is left is the order of float sums.
FIXED = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4096,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "S4M.PR.ENABLED": False,
    "S4M.ARP.ENABLED": False,
    "S4M.TEACHER.EMA_DECAY": 0.5,
}


@pytest.fixture
def train(small_options, run_arguments, run_python, tmp_path):
    """Function (name, processes, configuration, **options) -> folder of a finished training by tools/train_net.py."""

    def run(name, processes, config, *flags, semi, **options):
        files, own = run_arguments(config)
        launch = ["--num-gpus", processes, "--dist-url", "auto", *files]
        folder, options = tmp_path / name, [*own, *small_options(semi=semi, **options)]
        run_python("tools/train_net.py", *flags, *launch, "OUTPUT_DIR", folder, *options, log=tmp_path / f"{name}.log")
        return folder

    return run


def metrics(folder):
    """What metrics.json says last of each key."""
    logged = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    return logged


def load(folder, name="model_final"):
    return torch.load(folder / f"{name}.pth", weights_only=True)


def in_order(state):
    """A model's state whose samples of calibration, of which each process brings its own, are sorted."""
    if "calibration.features" not in state:
        return state
    rows = torch.cat([state["calibration.features"], state["calibration.worth"][:, None]], dim=1).tolist()
    features, worth = torch.tensor(sorted(rows), dtype=torch.float64).split([len(rows[0]) - 1, 1], dim=1)
    return {**state, "calibration.features": features, "calibration.worth": worth[:, 0]}


def assert_close(one, two, start=None):
    """Weights and momenta agree; `start`: and are not where they started."""
    states = [in_order(checkpoint["model"]) for checkpoint in (one, two)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
    momenta = [c["trainer"]["_trainer"]["optimizer"]["state"] for c in (one, two)]
    for index, state in momenta[0].items():
        other = momenta[1][index]["momentum_buffer"]
        torch.testing.assert_close(other, state["momentum_buffer"], rtol=1e-3, atol=1e-5, msg=str(index))


def as_options(fixed):
    return {key.replace(".", "__"): value for key, value in fixed.items()}


@pytest.mark.parametrize(("config", "semi"), [("stage1", False), ("stage2", True)])
def test_two_processes_equal_one(train, config, semi):
    options = as_options(FIXED)
    if semi:
        # The final evaluation also runs in both, and the checkpoint of the second iteration is taken up again.
        options |= {"TEST__EVAL_PERIOD": 3}
    else:
        # Padded images: what the processes average over differs from one to the other.
        options |= {"DATASETS__TEST": (), "INPUT__LSJ__ENABLED": True, "INPUT__LSJ__SIZE": 64}
        options |= {"INPUT__LSJ__MIN_SCALE": 0.4, "INPUT__LSJ__MAX_SCALE": 1.0, "TEST__EVAL_PERIOD": 0}
    one, two = (train(name, n, config, semi=semi, **options) for name, n in (("one", 1), ("two", 2)))
    wanted, found = load(one), load(two)
    assert_close(wanted, found)
    logged, expected = metrics(two), metrics(one)
    losses = [key for key in expected if "loss" in key]
    assert len(losses) >= (11 if semi else 7)
    for key in losses:
        assert logged[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key
    if not semi:
        assert expected["loss_structure"] > 0
        return
    assert expected["pseudo_labels/selected"] > 0
    for name in ("student", "teacher"):
        assert f"{name}/segm/AP" in logged
    (two / "last_checkpoint").write_text("model_0000001.pth")
    (two / "model_final.pth").unlink()
    assert load(train("two", 2, config, "--resume", semi=semi, **options))["iteration"] == 2
    assert_close(found, load(two))


@pytest.mark.parametrize("config", ["stage2", "mask2former_stage2"])
def test_all_parts_train_in_two_processes(train, config):
    options = {"SOLVER__MAX_ITER": 2, "S4M__SD__ENABLED": True, "DATASETS__TEST": (), "TEST__EVAL_PERIOD": 0}
    options |= {f"S4M__{name}__ENABLED": True for name in ("BOUNDARY", "CALIBRATION", "MATCHING")}
    options |= {"S4M__CALIBRATION__FLOOR": 0.0, "S4M__CALIBRATION__PERIOD": 1}
    folder = train("all", 2, config, semi=True, **options)
    logged = metrics(folder)
    assert logged["pseudo_labels/refined"] + logged["pseudo_labels/rejected"] > 0
    assert {"loss_structure", "loss_mask_pseudo", "loss_boundary_pseudo"} <= logged.keys()
    state = load(folder)["model"]
    assert state["calibration.drawn"] > 0 and state["calibration.steps"] == 2 and "calibration/samples" in logged


def calibrate(folder, ranks):
    """Two iterations of the calibration on the shares of these ranks, of which one sees nothing in the first."""
    calibration = ConfidenceCalibration(num_classes=2, period=1)
    for turn in range(2):
        found = [predictions(10 * (rank + turn), 3 * rank * (1 + turn)) for rank in ranks]
        calibration.observe(found)
        truths = [Instances((8, 8), gt_classes=x.pred_classes, gt_masks=BitMasks(x.pred_masks)) for x in found]
        calibration.learn(found, truths)
    torch.save(calibration.state_dict(), folder / f"{'_'.join(map(str, ranks))}.pth")


def predictions(seed, count):
    generator = torch.Generator().manual_seed(seed)
    found = Instances((8, 8), scores=torch.rand(count, generator=generator))
    found.pred_classes = torch.randint(2, (count,), generator=generator)
    found.pred_masks = torch.rand(count, 8, 8, generator=generator) > 0.5
    return found


def calibrate_own_share(folder):
    calibrate(folder, [comm.get_rank()])


def test_calibration_is_one_over_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # `launch` takes every GPU that it sees
    launch(calibrate_own_share, 2, dist_url="auto", args=(tmp_path,))
    calibrate(tmp_path, [0, 1])
    first, second, together = (load(tmp_path, name) for name in ("0", "1", "0_1"))
    for key, value in together.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, msg=key)
    assert together["drawn"] == 9 and together["seen"].sum() == 9


# The criterion of one image with three instances and one with a single light one, at fixed points: `chosen` says which
# of them a process takes. Class logits leave no doubt about who belongs to whom.
CRITERION = """
import torch
from detectron2.structures import BitMasks, Instances
from transformers import Mask2FormerConfig
from s4m.modeling.mask2former_loss import PseudoLabelMask2FormerLoss, to_mask_targets

torch.manual_seed(0)
size, labels, weights = (16, 16), [[0, 1, 2], [1]], [[1.0, 0.5, 1.0], [0.25]]
masks = torch.rand(4, *size) > 0.5
images = [Instances(size, gt_classes=torch.tensor(some), gt_weights=torch.tensor(weight),
                    gt_masks=BitMasks(masks[: len(some)])) for some, weight in zip(labels, weights)]
classes, logits = torch.randn(2, 6, 4), torch.randn(2, 6, 8, 8)
classes[:, :3] += 200 * torch.eye(3, 4)
points = torch.rand(1, 20, 2)
criterion = PseudoLabelMask2FormerLoss(Mask2FormerConfig(num_labels=3, train_num_points=20))
criterion.sample_points_using_uncertainty = lambda logits, *_: points.expand(len(logits), -1, -1)
found = criterion([classes[chosen]], [logits[chosen]], [to_mask_targets(images[i], size) for i in chosen])
found = {key: float(value) for key, value in found.items()}
"""
ONE_OF_TWO = f"""
import sys, torch
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{{folder}}/meet", rank=rank, world_size=2)
chosen = [rank]
{CRITERION}
torch.save(found, f"{{folder}}/{{rank}}.pth")
"""


def test_mask2formers_losses_are_over_the_instances_of_all_processes(run_python, tmp_path):
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    running = [run_python("-c", ONE_OF_TWO, tmp_path, rank, log=log, wait=False) for rank, log in enumerate(logs)]
    whole = {"chosen": [0, 1]}
    exec(CRITERION, whole)
    for process, log in zip(running, logs, strict=True):
        assert process.wait(timeout=240) == 0, log.read_text(encoding="utf-8")[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    assert whole["found"].keys() == {"loss_class", "loss_mask", "loss_dice"} and min(whole["found"].values()) > 0
    for key, value in whole["found"].items():
        assert sum(part[key] for part in parts) / 2 == pytest.approx(value, rel=1e-5), key
