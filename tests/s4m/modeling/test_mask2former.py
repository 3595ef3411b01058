"""Mask2Former as a student: any batch, frames, protocol, backbones of the model zoo."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from d2kit.config_files import compose_config
from s4m import add_s4m_config
from s4m.data.shapes import ShapesRecipe, draw_scene
from s4m.engine.weights import TeacherStudentCheckpointer

TERMS = {"loss_class", "loss_mask", "loss_dice"}
ROOT = Path(__file__).resolve().parents[3]


def scene(seed, size=(64, 64), empty=False):
    """One labeled image as the mapper gives it; `empty`: without an instance."""
    recipe = ShapesRecipe(image_size=size, objects=(1, 3))
    image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
    labels = [] if empty else list(range(1, len(names) + 1))
    masks = BitMasks(torch.from_numpy(owner)[None] == torch.tensor(labels, dtype=torch.int64).view(-1, 1, 1))
    classes = torch.tensor([recipe.classes.index(names[i - 1]) for i in labels], dtype=torch.int64)
    instances = Instances(size, gt_boxes=masks.get_bounding_boxes(), gt_classes=classes, gt_masks=masks)
    image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return {"image": image, "instances": instances, "seed": seed, "height": size[0], "width": size[1]}


def weak(seed, size=(64, 64)):
    return {key: value for key, value in scene(seed, size).items() if key != "instances"}


def small(**options):
    """A Mask2Former whose step on 64 px images takes a tenth of a second; the keys have `__` for the point."""
    files = ["quick/shapes_stage2.yaml", "quick/overlays/mask2former_stage2.yaml"]
    cfg = compose_config(files, add_keys=[add_s4m_config])
    tiny = {"HIDDEN": 32, "HEADS": 4, "FEEDFORWARD": 32, "ENCODER_FEEDFORWARD": 32, "POINTS": 64, "DECODER_LAYERS": 2}
    options = {
        "DATASETS.UNLABELED": ("some",),
        "MODEL.ROI_HEADS.NUM_CLASSES": 5,
        "S4M.SELECTION.SCORE": 0.05,
        "S4M.CALIBRATION.LOW": 0.05,
        "S4M.CALIBRATION.BOUNDS": (0.05, 0.9),
        "S4M.SD.POINTS": 4,
        "S4M.TEACHER.WEIGHTS": "",
        **{f"MODEL.MASK2FORMER.{key}": value for key, value in tiny.items()},
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    return cfg


def build(**options):
    torch.manual_seed(0)
    return build_model(small(**options))


def step(model, data, seed=0):
    """Losses of one step with their gradients, and the scalars it logged."""
    torch.manual_seed(seed)
    model.zero_grad()
    with EventStorage() as storage:
        losses = model.train()(data)
        sum(losses.values()).backward()
    return losses, storage.latest()


@pytest.fixture(scope="module")
def whole():
    """Everything on: PR, ARP and SD."""
    return build(S4M__SD__ENABLED=True)


@pytest.fixture(scope="module")
def alone():
    """The student without a teacher."""
    return build(MODEL__META_ARCHITECTURE="S4MMask2Former")


@pytest.mark.parametrize(
    ("labeled", "unlabeled"),
    [
        pytest.param([scene(0)], [weak(1)], id="batch-of-one"),
        pytest.param([scene(0, (47, 95))], [weak(1, (33, 70))], id="odd-shapes"),
        pytest.param([scene(i) for i in range(3)], [weak(i, (64, 40 + i)) for i in range(5)], id="many"),
        pytest.param([scene(0, empty=True)], [weak(1), weak(2)], id="no-labeled-instance"),
        pytest.param([scene(0, empty=True), scene(1)], [weak(2)], id="one-empty-image"),
        pytest.param([], [weak(1), weak(2)], id="only-unlabeled"),
    ],
)
def test_any_batch_gives_finite_losses_and_gradients(whole, labeled, unlabeled):
    losses, logged = step(whole, {"labeled": labeled, "unlabeled": unlabeled})
    pseudo = {f"{term}_pseudo" for term in TERMS}
    assert losses.keys() == pseudo | (TERMS | {"loss_structure"} if labeled else set())
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_mask_pseudo"] > 0 and logged["pseudo_labels/selected"][0] > 0
    gradients = [p.grad for p in whole.student.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_structural_distillation_reaches_the_pixel_decoder_and_the_backbone(whole):
    torch.manual_seed(0)
    whole.zero_grad()
    losses = whole.train()({"labeled": [scene(0)], "unlabeled": []})
    losses["loss_structure"].backward()
    assert whole.student.head.pixel_decoder.mask_projection.weight.grad.abs().sum() > 0
    assert whole.student.backbone.res2[0].conv1.weight.grad.abs().sum() > 0
    assert whole.student.head.class_predictor.weight.grad is None


def test_pixel_features_cover_the_padded_batch(alone):
    _, features, padded = alone.train().losses_and_features([scene(0, (47, 95)), scene(1, (64, 33))])
    assert padded == (64, 96) and features.shape == (2, 32, 16, 24)


def test_no_pseudo_label_is_all_background(whole, monkeypatch):
    monkeypatch.setattr(whole.labeler, "score", 1.0)
    losses, _ = step(whole, {"labeled": [], "unlabeled": [weak(1), weak(2)]})
    assert losses["loss_mask_pseudo"] == 0 == losses["loss_dice_pseudo"] and losses["loss_class_pseudo"] > 0


def test_results_have_the_original_frame(alone):
    inputs = [weak(0), {**weak(1, (40, 80)), "height": 61, "width": 121}]
    with torch.no_grad():
        found = alone.eval()(inputs)
    for item, size in zip(found, [(64, 64), (61, 121)], strict=True):
        instances = item["instances"]
        assert instances.image_size == size and 0 < len(instances) <= 30
        assert instances.pred_masks.shape[1:] == size and instances.pred_masks.dtype == torch.bool
        boxes = BitMasks(instances.pred_masks).get_bounding_boxes().tensor
        torch.testing.assert_close(instances.pred_boxes.tensor, boxes)
        assert ((instances.scores > 0) & (instances.scores < 1)).all()
        assert ((instances.pred_classes >= 0) & (instances.pred_classes < 5)).all()


def test_an_image_alone_is_as_in_a_batch_of_its_size(alone):
    with torch.no_grad():
        both, one = alone.eval()([weak(0), weak(1)]), alone([weak(1)])
    torch.testing.assert_close(both[1]["instances"].scores, one[0]["instances"].scores)
    assert torch.equal(both[1]["instances"].pred_masks, one[0]["instances"].pred_masks)


def test_predictions_for_pseudo_labels_are_soft_and_in_the_input_frame(alone):
    inputs = [{**weak(0, (47, 95)), "height": 200, "width": 400}]
    found = alone.eval().predict(inputs)[0]
    assert found.image_size == (47, 95) and 0 < len(found) <= 20
    assert found.soft_masks.shape == (len(found), 47, 95)
    assert ((found.soft_masks > 0) & (found.soft_masks < 1)).all()
    boxes = BitMasks(found.soft_masks > 0.5).get_bounding_boxes().tensor
    torch.testing.assert_close(found.pred_boxes.tensor, boxes)
    threshold = found.scores.median().item()
    assert torch.equal(alone.predict(inputs, threshold)[0].scores, found.scores[found.scores > threshold])
    none = alone.predict(inputs, 1.0)[0]
    assert len(none) == 0 and none.soft_masks.shape == (0, 47, 95)


def test_polygons_are_learned_as_bitmasks(alone):
    entry = scene(0)
    box = torch.tensor([[10.0, 20.0, 40.0, 50.0]])
    polygon = np.array([10.0, 20.0, 40.0, 20.0, 40.0, 50.0, 10.0, 50.0])
    bitmap = torch.zeros(1, 64, 64, dtype=torch.bool)
    bitmap[:, 20:50, 10:40] = True
    losses = []
    for masks in (PolygonMasks([[polygon]]), BitMasks(bitmap)):
        entry["instances"] = Instances((64, 64), gt_classes=torch.tensor([1]), gt_masks=masks)
        entry["instances"].gt_boxes = BitMasks(bitmap).get_bounding_boxes()
        losses.append(step(alone, [entry])[0])
    assert torch.equal(box, entry["instances"].gt_boxes.tensor)
    assert all(torch.equal(losses[0][term], losses[1][term]) for term in TERMS)


def test_learns_an_image_by_heart():
    """Every instance of an image is found with its class and about its mask, and nothing else."""
    sizes = {"HIDDEN": 64, "FEEDFORWARD": 128, "ENCODER_FEEDFORWARD": 128, "QUERIES": 8, "POINTS": 512}
    options = {f"MODEL__MASK2FORMER__{key}": value for key, value in sizes.items()}
    model, data = build(MODEL__META_ARCHITECTURE="S4MMask2Former", **options).train(), [scene(4)]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4)
    for _ in range(70):
        optimizer.zero_grad()
        sum(model(data).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(data)[0]["instances"]
    found, truth = found[found.scores > 0.5], data[0]["instances"]
    assert sorted(found.pred_classes.tolist()) == sorted(truth.gt_classes.tolist())
    for label, mask in zip(truth.gt_classes, truth.gt_masks.tensor, strict=True):
        mine = found.pred_masks[found.pred_classes == label][0]
        assert (mine & mask).sum() > 0.5 * (mine | mask).sum()


@pytest.mark.parametrize("semi", [True, False])
def test_backbone_of_the_model_zoo_goes_to_the_student(tmp_path, semi):
    model = build(DATASETS__UNLABELED=("some",) if semi else (), MODEL__RESNETS__NORM="BN")
    backbone = model.student.backbone
    layers = {"stem.conv1": backbone.stem.conv1, "res4.0.conv2": backbone.res4[0].conv2}
    wanted = {name: torch.randn_like(layer.weight) for name, layer in layers.items()}
    arrays = {f"{name}.weight": value.numpy() for name, value in wanted.items()}
    arrays["res5.0.conv1.norm.weight"] = np.full(backbone.res5[0].conv1.norm.weight.shape, 0.25, np.float32)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    head = model.student.head.class_predictor.weight.clone()
    TeacherStudentCheckpointer(model).load(str(tmp_path / "R-18.pkl"))
    for name, layer in layers.items():
        assert torch.equal(layer.weight, wanted[name]), name
    assert (backbone.res5[0].conv1.norm.weight == 0.25).all()
    assert torch.equal(model.student.head.class_predictor.weight, head)
    if semi:
        assert torch.equal(model.teacher.backbone.stem.conv1.weight, wanted["stem.conv1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"MODEL__MASK2FORMER__IN_FEATURES": ["res2", "res3"]},
            r"IN_FEATURES \['res2', 'res3'\] must have",
        ),
        ({"MODEL__MASK2FORMER__IN_FEATURES": ["p2", "p3", "p4", "p5"]}, "the backbone gives {'res2': 4"),
        ({"MODEL__MASK2FORMER__HIDDEN": 48}, "MODEL.MASK2FORMER.HIDDEN is 48"),
    ],
)
def test_bad_keys_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_package_works_without_transformers(tmp_path):
    code = """
import sys
sys.modules["transformers"] = None
from detectron2.config import get_cfg
from detectron2.modeling import build_model
import s4m
cfg = get_cfg()
s4m.add_s4m_config(cfg)
cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "S4MMask2Former", "cpu"
try:
    build_model(cfg)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "transformers is not installed" in done.stdout and "[transformers]" in done.stdout
