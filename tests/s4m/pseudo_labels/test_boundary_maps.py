"""The teacher's and SAM's soft masks stay with their instance through refinement, copy-paste and augmentation."""

import pytest
import torch
from detectron2.config import get_cfg

from s4m.config import add_s4m_config
from s4m.pseudo_labels.pipeline import PseudoLabeler

FIELDS = {"gt_boxes", "gt_classes", "gt_masks", "gt_weights", "gt_teacher_masks", "gt_sam_masks", "gt_refined"}


def make_labeler(**switches):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.BOUNDARY.ENABLED = True
    for name in ("PR", "ARP", "CALIBRATION"):
        cfg.S4M[name].ENABLED = switches.get(name, False)
    cfg.S4M.ARP.DYNAMIC, cfg.S4M.ARP.MIN_AREA, cfg.S4M.ARP.FRACTION = switches.get("dynamic", True), 0.0, 0.5
    return PseudoLabeler(cfg)


def label(labeler, make_predictions, make_squares, segmenter, count=5, images=2, size=(64, 90)):
    red, masks = make_squares(count, *size, 12 if count < 100 else 4)
    weak = [{"image": torch.stack([red] * 3), "seed": i} for i in range(images)]
    soft = 0.9 * masks.float()
    soft[..., 1:] *= masks[..., :-1].float()  # the teacher misses the first column
    return labeler(weak, [make_predictions(soft)] * images, segmenter), masks, soft


def test_sams_map_is_its_probability_and_the_teachers_its_own(make_predictions, make_squares, segmenter):
    (batch, _), masks, soft = label(make_labeler(PR=True), make_predictions, make_squares, segmenter, 3, 1)
    found = batch[0]["instances"]
    assert set(found.get_fields()) == FIELDS
    torch.testing.assert_close(found.gt_teacher_masks.float(), soft, atol=1e-3, rtol=0)
    expected = torch.where(masks, 5.0, -5.0).sigmoid()  # the logits of the segmenter
    torch.testing.assert_close(found.gt_sam_masks.float(), expected, atol=1e-3, rtol=0)
    assert found.gt_refined.all() and torch.equal(found.gt_masks.tensor, masks)


def test_a_rejected_answer_is_not_refined(make_predictions, make_squares, make_segmenter):
    (batch, _), *_ = label(make_labeler(PR=True), make_predictions, make_squares, make_segmenter(trusted=2), 3, 1)
    assert not batch[0]["instances"].gt_refined.any()


def test_without_sam_its_map_is_the_teachers(make_predictions, make_squares, segmenter):
    (batch, _), *_ = label(make_labeler(), make_predictions, make_squares, segmenter, 3, 1)
    found = batch[0]["instances"]
    assert torch.equal(found.gt_sam_masks, found.gt_teacher_masks) and not found.gt_refined.any()
    assert segmenter.encoded == []


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", [5, 300])
def test_maps_move_and_are_occluded_with_their_masks(make_predictions, make_squares, segmenter, dynamic, count):
    labeler = make_labeler(PR=True, ARP=True, dynamic=dynamic)
    size = (64, 90) if count < 100 else (130, 130)
    (batch, _), _, _ = label(labeler, make_predictions, make_squares, segmenter, count, 2, size)
    for entry in batch:
        found = entry["instances"]
        assert set(found.get_fields()) == FIELDS and len(found) > 1
        masks, sam, teacher = found.gt_masks.tensor, found.gt_sam_masks, found.gt_teacher_masks
        assert sam.dtype == teacher.dtype == torch.float16 and sam.shape == teacher.shape == masks.shape
        assert sam[masks].min() > 0.4 and sam[~masks].max() < 0.6  # a rescaled edge lies between pixels
        assert (teacher > 0.5).sum() > 0.5 * masks.sum() and ((teacher > 0.5) & ~masks).sum() == 0


@pytest.mark.parametrize("images", [1, 2])
def test_no_pseudo_label_has_empty_maps(make_predictions, make_squares, segmenter, images):
    labeler = make_labeler(PR=True, ARP=True, CALIBRATION=True)
    (batch, _), *_ = label(labeler, make_predictions, make_squares, segmenter, 0, images)
    for entry in batch:
        assert set(entry["instances"].get_fields()) == FIELDS
        assert entry["instances"].gt_sam_masks.shape == (0, 64, 90)


def test_ignored_regions_have_maps_too(make_predictions, make_squares, segmenter):
    red, masks = make_squares(4, 64, 90, 12)
    predictions = make_predictions(0.9 * masks.float(), scores=[0.9, 0.5, 0.95, 0.1])
    weak = [{"image": torch.stack([red] * 3), "seed": 0}]
    batch, _ = make_labeler(PR=True, CALIBRATION=True)(weak, [predictions], segmenter)
    found = batch[0]["instances"]
    assert found.gt_classes.tolist() == [0, 2, -1] and found.gt_refined.tolist() == [True, True, False]
    assert found.gt_sam_masks.shape == (3, 64, 90)
