"""Boundary consistency, calibration and matching in a whole step: each alone and together; the state is saved."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from s4m.data.shapes import ShapesRecipe, draw_scene
from s4m.pseudo_labels.record import PseudoLabelRecord

SUPERVISED = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
SWITCHES = ("BOUNDARY", "CALIBRATION", "MATCHING")


def scene(seed):
    """One labeled image as the mapper gives it."""
    recipe = ShapesRecipe(image_size=(64, 64), objects=(2, 3))
    image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
    masks = BitMasks(torch.stack([torch.from_numpy(owner == i + 1) for i in range(len(names))]))
    classes = torch.tensor([recipe.classes.index(name) for name in names])
    instances = Instances((64, 64), gt_boxes=masks.get_bounding_boxes(), gt_classes=classes, gt_masks=masks)
    image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return {"image": image, "instances": instances, "seed": seed, "file_name": f"scene{seed}.png"}


def build(small_cfg, switches, **options):
    torch.manual_seed(0)
    switched = {f"S4M__{name}__ENABLED": name in switches for name in SWITCHES}
    options = {"S4M__ARP__MIN_AREA": 0.0, "S4M__CALIBRATION__FLOOR": 0.0, **switched, **options}  # it knows nothing yet
    model = build_model(small_cfg(**options)).train()
    assert model.segmenter is not None or not options.get("S4M__PR__ENABLED", True)  # built now: it draws numbers
    return model


def step(model, first=0):
    weak = [{k: v for k, v in scene(i).items() if k != "instances"} for i in range(first + 2, first + 4)]
    model.zero_grad()
    torch.manual_seed(0)
    with EventStorage() as storage:
        losses = model({"labeled": [scene(first), scene(first + 1)], "unlabeled": weak})
        sum(losses.values()).backward()
    return losses, storage.latest()


@pytest.mark.parametrize("switches", [*[(name,) for name in SWITCHES], SWITCHES], ids="+".join)
def test_each_switch_works_alone_and_with_the_others(small_cfg, switches):
    model = build(small_cfg, switches)
    losses, logged = step(model)
    extra = {"loss_boundary_pseudo"} if "BOUNDARY" in switches else set()
    assert losses.keys() == SUPERVISED | {f"{key}_pseudo" for key in SUPERVISED} | extra
    assert all(torch.isfinite(value) and value > 0 for key, value in losses.items() if key != "loss_box_reg_pseudo")
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.requires_grad)
    calibrated = "CALIBRATION" in switches
    assert ("calibration/threshold_mean" in logged) == ("pseudo_labels/confidence" in logged) == calibrated
    assert any(key.startswith("calibration.") for key in model.state_dict()) == calibrated
    assert ("pseudo_labels/match/matched" in logged) == ("MATCHING" in switches)


def test_rates_of_matching_are_over_the_last_20_batches(small_cfg, monkeypatch):
    counts = iter([torch.tensor([1, 3, 0, 0, 0, 3]), None, *[torch.tensor([5, 0, 0, 0, 0, 0])] * 20])
    monkeypatch.setattr("s4m.modeling.teacher_student.match_counts", lambda _: next(counts))
    model, rates = build(small_cfg, ("MATCHING",)), []
    for _ in range(22):
        with EventStorage() as storage:
            model._log_matching(PseudoLabelRecord())
            rates.append(storage.latest_with_smoothing_hint(20).get("pseudo_labels/match/matched", (None,))[0])
    assert rates[:3] == [0.25, None, 6 / 9] and rates[20] == 96 / 99 and rates[21] == 1.0


def test_all_work_with_mask2former(small_cfg):
    name = "mask2former_stage2"
    torch.manual_seed(0)
    options = {f"S4M__{guard}__ENABLED": True for guard in SWITCHES}
    cfg = small_cfg(name, S4M__ARP__MIN_AREA=0.0, S4M__CALIBRATION__FLOOR=0.0, S4M__SELECTION__SCORE=0.05, **options)
    model = build_model(cfg).train()
    losses, logged = step(model)
    terms = {"loss_class", "loss_mask", "loss_dice"}
    assert losses.keys() == terms | {f"{key}_pseudo" for key in terms} | {"loss_boundary_pseudo"}
    assert all(torch.isfinite(value) for value in losses.values()) and logged["pseudo_labels/selected"][0] > 0
    assert losses["loss_boundary_pseudo"] > 0 and "pseudo_labels/match/matched" in logged
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.requires_grad and p.grad is not None)


@pytest.mark.parametrize("name", ["stage2", "mask2former_stage2"])
def test_a_whole_step_in_half_precision(small_cfg, name):
    options = {f"S4M__{guard}__ENABLED": True for guard in SWITCHES}
    options |= {"S4M__SD__ENABLED": True, "S4M__CALIBRATION__FLOOR": 0.0, "S4M__SELECTION__SCORE": 0.05}
    torch.manual_seed(0)
    model = build_model(small_cfg(name, **options)).train()
    with torch.autocast("cpu", dtype=torch.float16):
        losses, logged = step(model)
    assert logged["pseudo_labels/selected"][0] > 0 and {"loss_structure", "loss_boundary_pseudo"} <= losses.keys()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", ["stage2", "mask2former_stage2"])
def test_students_learn_and_answer_in_half_precision(small_cfg, name, dtype):
    options = {f"S4M__{guard}__ENABLED": True for guard in ("SD", *SWITCHES)} | {"S4M__CALIBRATION__FLOOR": 0.0}
    torch.manual_seed(0)
    model = build_model(small_cfg(name, S4M__ARP__MIN_AREA=0.0, **options)).train()
    with torch.autocast("cpu", dtype=dtype):
        losses, logged = step(model)
    terms = {"loss_class", "loss_mask", "loss_dice"} if "mask2former" in name else SUPERVISED
    assert losses.keys() == terms | {f"{key}_pseudo" for key in terms} | {"loss_structure", "loss_boundary_pseudo"}
    assert all(torch.isfinite(value) and value > 0 for key, value in losses.items() if key != "loss_box_reg_pseudo")
    assert logged["pseudo_labels/selected"][0] > 0
    gradients = {name: p.grad for name, p in model.student.named_parameters() if p.requires_grad}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []

    image = {**scene(4), "height": 61, "width": 121}
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        found, soft = model.eval()([image])[0]["instances"], model.student.predict([image])[0]
    assert len(found) and found.pred_masks.shape[1:] == (61, 121)
    assert found.scores.isfinite().all() and found.pred_masks.any()
    assert len(soft) and soft.soft_masks.shape[1:] == (64, 64) and soft.soft_masks.isfinite().all()


def drop_ignored(model):
    """Let the model's pseudo-labels lose their ignored regions, which then are background."""
    labeler = model.labeler

    def without_regions(*arguments):
        batch, record = labeler(*arguments)
        return [{**x, "instances": x["instances"][x["instances"].gt_classes >= 0]} for x in batch], record

    without_regions.min_score, without_regions.refined = labeler.min_score, labeler.refined
    model.labeler = without_regions


def sampled_labels(model, monkeypatch):
    """What the last call gave each image's ignored boxes, all anchors with their labels, and proposals with theirs."""
    seen, student = {}, model.student
    anchors, proposals = (
        student.proposal_generator.label_and_sample_anchors,
        student.roi_heads.label_and_sample_proposals,
    )

    def watch_anchors(every, targets):
        labels, matched = anchors(every, targets)
        seen["ignored"] = [x.gt_boxes[x.gt_classes < 0] for x in targets]
        seen["anchors"] = [(Boxes.cat(every), label.clone()) for label in labels]
        return labels, matched

    def watch_proposals(found, targets):
        sampled = proposals(found, targets)
        seen["proposals"] = [(x.proposal_boxes, x.gt_classes.clone()) for x in sampled]
        return sampled

    monkeypatch.setattr(student.proposal_generator, "label_and_sample_anchors", watch_anchors)
    monkeypatch.setattr(student.roi_heads, "label_and_sample_proposals", watch_proposals)
    return seen


def shares(boxes, regions):
    """The largest share of each box that one of the regions covers, by hand."""
    corners = boxes.tensor[:, None], regions.tensor[None]
    low, high = torch.maximum(*(x[..., :2] for x in corners)), torch.minimum(*(x[..., 2:] for x in corners))
    return ((high - low).clamp(min=0).prod(dim=2) / boxes.area()[:, None]).amax(dim=1)


def test_everything_ignored_is_no_background(small_cfg, monkeypatch):
    model = build(small_cfg, SWITCHES, S4M__CALIBRATION__FLOOR=1.0, S4M__ARP__ENABLED=False)
    seen = sampled_labels(model, monkeypatch)
    losses, logged = step(model)
    assert logged["pseudo_labels/selected"][0] > 0 and all(torch.isfinite(value) for value in losses.values())
    for key in ("loss_mask_pseudo", "loss_boundary_pseudo", "loss_box_reg_pseudo", "loss_rpn_loc_pseudo"):
        assert losses[key] == 0, key
    for name, background in (("anchors", 0), ("proposals", 5)):
        counts = torch.zeros(2)
        for regions, (boxes, labels) in zip(seen["ignored"], seen[name], strict=True):
            inside = shares(boxes, regions) > 0.5
            counts += torch.stack([inside.sum(), (labels == background).sum()])
            assert (labels[inside] == -1).all() and not ((labels >= 0) & (labels != background)).any(), name
        assert counts.min() > 0, name
    drop_ignored(model)
    dropped, _ = step(model)
    assert not any(len(regions) for regions in seen["ignored"])
    for key in ("loss_cls_pseudo", "loss_rpn_cls_pseudo"):
        assert not torch.isclose(losses[key], dropped[key], rtol=1e-4), key


def test_everything_ignored_is_no_background_of_mask2former(small_cfg, monkeypatch):
    options = {"S4M__CALIBRATION__ENABLED": True, "S4M__CALIBRATION__FLOOR": 1.0, "S4M__UNSUP_WEIGHT": 1.0}
    options |= {f"S4M__{name}__ENABLED": False for name in ("PR", "ARP", "STRONG")}
    torch.manual_seed(0)
    model = build_model(small_cfg("mask2former_stage2", **options)).train()
    learn, seen = model.student.losses_and_features, []
    monkeypatch.setattr(model.student, "losses_and_features", lambda batch: seen.append(batch) or learn(batch))
    losses, logged = step(model)
    assert logged["pseudo_labels/selected"][0] > 0 == losses["loss_mask_pseudo"] == losses["loss_dice_pseudo"]
    with torch.no_grad():
        output, _ = model.student._predict(seen[-1])
    regions = torch.stack([x["instances"].gt_masks.tensor.any(dim=0) for x in seen[-1]]).float()
    here = torch.nn.functional.avg_pool2d(regions, 4)[:, None]  # the logits' cells are of 4 pixels
    expected, kept = 0.0, []
    for classes, masks in zip(output.class_logits, output.mask_logits, strict=True):
        inside = (masks > 0) & (here > 0)
        share = (inside * here).sum(dim=(2, 3)) / (masks > 0).sum(dim=(2, 3)).clamp(min=1)
        kept.append(share <= 0.5)
        entropy = -classes.log_softmax(dim=2)[..., -1][kept[-1]]
        expected += 2.0 * 0.1 * entropy.sum() / max(0.1 * len(entropy), 1.0)  # weights of classes and of none
    assert 0 < torch.stack(kept).float().mean() < 1
    torch.testing.assert_close(losses["loss_class_pseudo"], expected)
    drop_ignored(model)
    dropped, _ = step(model)
    assert not any(len(x["instances"]) for x in seen[-1])
    assert not torch.isclose(losses["loss_class_pseudo"], dropped["loss_class_pseudo"], rtol=1e-4)


def test_without_sam_calibration_and_boundary_rest_on_the_teacher_alone(small_cfg):
    model = build(small_cfg, SWITCHES[:2], S4M__PR__ENABLED=False)
    assert model.segmenter is None
    losses, _ = step(model)
    assert losses["loss_boundary_pseudo"] > 0 and model.calibration.drawn > 0


def test_calibration_learns_in_training_every_period_and_its_state_continues(small_cfg):
    first, second = (build(small_cfg, ["CALIBRATION"], S4M__CALIBRATION__PERIOD=2) for _ in range(2))
    drawn = []
    for turn in range(2):
        step(first, 4 * turn)
        drawn.append(int(first.calibration.drawn))
    assert drawn[0] == drawn[1] > 0 and first.calibration.steps == 2 and first.calibration.seen.sum() > 0
    second.load_state_dict(first.state_dict())
    expected, found = step(first, 8)[0], step(second, 8)[0]
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert int(first.calibration.drawn) > drawn[1]
    assert torch.equal(first.calibration.weights, second.calibration.weights)


@pytest.mark.parametrize("region", ["crowds", "void", None])
def test_predictions_in_void_and_crowds_of_labeled_images_teach_nothing(small_cfg, region):
    model = build(small_cfg, ["CALIBRATION"], S4M__PR__ENABLED=False)
    entry = {**scene(0), "instances": scene(0)["instances"][:0]}
    everywhere = BitMasks(torch.ones(5, 64, 64, dtype=torch.bool))  # one of each class
    classes = torch.arange(5) if region == "crowds" else torch.full((5,), -1)
    whole = Instances((64, 64), gt_boxes=everywhere.get_bounding_boxes(), gt_classes=classes, gt_masks=everywhere)
    if region is not None:
        entry["crowds" if region == "crowds" else "instances"] = whole
    model.calibrate([entry])
    assert (model.calibration.drawn == 0) == (region is not None)


def test_labeling_outside_training_changes_no_state(small_cfg):
    model = build(small_cfg, ["CALIBRATION"]).eval()
    before = {key: value.clone() for key, value in model.calibration.state_dict().items()}
    model.pseudo_label([{k: v for k, v in scene(0).items() if k != "instances"}])
    assert all(torch.equal(before[key], value) for key, value in model.calibration.state_dict().items())
