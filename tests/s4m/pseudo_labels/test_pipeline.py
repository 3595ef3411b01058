"""The whole way from predictions to the student's batch: switches, inputs untouched, seeds, records."""

import copy

import pytest
import torch
from detectron2.config import get_cfg

from s4m.config import add_s4m_config
from s4m.pseudo_labels.pipeline import PseudoLabeler

SIZES = [(40, 64), (33, 47), (64, 40), (50, 50)]


@pytest.fixture
def make_labeler():
    def make(**switches):
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.S4M.PR.ENABLED = switches.get("pr", False)
        cfg.S4M.ARP.ENABLED = switches.get("arp", False)
        cfg.S4M.STRONG.ENABLED = switches.get("strong", False)
        cfg.S4M.ARP.MIN_AREA = 0.001
        return PseudoLabeler(cfg)

    return make


@pytest.fixture
def batch(make_predictions, make_squares):
    """Four images of blue-green-red squares whose red value names them; a teacher sees their left parts."""
    weak, predictions = [], []
    for index, (size, count) in enumerate(zip(SIZES, (3, 0, 5, 1), strict=True)):
        red, masks = make_squares(count, *size, 7)
        image = torch.stack([torch.full_like(red, 50 + index), torch.full_like(red, 90), red])
        soft = masks.float() * 0.9
        soft[..., 1:] *= masks[..., :-1].float()
        weak.append(
            {
                "image": image,
                "file_name": f"{index}.png",
                "image_id": index,
                "height": 9,
                "width": 9,
                "seed": 70 + index,
            }
        )
        predictions.append(make_predictions(soft))
    return weak, predictions


def same(one, other):
    assert [list(d) for d in one] == [list(d) for d in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
    return True


def test_defaults_are_the_config_files():
    cfg = get_cfg()
    add_s4m_config(cfg)
    labeler = PseudoLabeler(cfg)
    assert (labeler.score, labeler.min_pixels, labeler.num_points, labeler.mixing, labeler.bgr) == (
        0.7,
        5,
        0,
        None,
        True,
    )
    assert labeler.strong == {}


def test_everything_off_is_the_teachers_labels_on_the_weak_view(make_labeler, batch, segmenter):
    weak, predictions = batch
    strong, record = make_labeler()(weak, predictions, segmenter)
    for entry, result, found in zip(weak, strong, predictions, strict=True):
        assert torch.equal(result["image"], entry["image"])
        labels = result["instances"]
        assert torch.equal(labels.gt_masks.tensor, found.soft_masks > 0.5)
        assert torch.equal(labels.gt_boxes.tensor, found.pred_boxes.tensor)
        assert torch.equal(labels.gt_classes, found.pred_classes)
        assert torch.equal(labels.gt_weights, torch.ones(len(found)))
        assert labels.image_size == tuple(entry["image"].shape[1:])
        assert {k: v for k, v in result.items() if k not in ("image", "instances")} == {
            k: v for k, v in entry.items() if k != "image"
        }
    assert segmenter.encoded == []
    assert record.scalars()["pseudo_labels/selected"] == 9 / 4
    assert record.scalars()["pseudo_labels/refined"] == record.scalars()["pseudo_labels/rejected"] == 0


def test_refinement_sees_rgb_and_is_recorded(make_labeler, batch, segmenter):
    weak, predictions = batch
    strong, record = make_labeler(pr=True)(weak, predictions, segmenter)
    assert segmenter.encoded == [3]  # one image has nothing
    for entry, result, found, kept in zip(weak, strong, predictions, record.images, strict=True):
        red = entry["image"][2]
        truth = torch.stack([red == index + 1 for index in range(len(found))]) if len(found) else found.soft_masks > 0.5
        assert torch.equal(result["instances"].gt_masks.tensor, truth)
        assert torch.equal(kept.masks, truth)
        assert torch.equal(kept.teacher_masks, found.soft_masks > 0.5)
        assert (kept.selected, kept.refined, kept.rejected) == (len(found), len(found), 0)
        assert kept.file_name == entry["file_name"]
    assert record.scalars("x/")["x/refined"] == 9 / 4


def test_rejected_answers_are_counted(make_labeler, batch, make_segmenter):
    _, record = make_labeler(pr=True)(*batch, make_segmenter(trusted=2))
    assert record.scalars()["pseudo_labels/rejected"] == 9 / 4
    assert record.scalars()["pseudo_labels/refined"] == 0


def test_mixing_alone_adds_instances(make_labeler, batch):
    weak, predictions = batch
    strong, record = make_labeler(arp=True)(weak, predictions)
    changed = [not torch.equal(a["image"], b["image"]) for a, b in zip(weak, strong, strict=True)]
    assert 0 < sum(changed) <= 2
    assert record.targets == sum(len(entry["instances"]) for entry in strong)
    assert [image.selected for image in record.images] == [3, 0, 5, 1]  # before the mixing


def test_strong_alone_changes_pixels_only(make_labeler, batch):
    weak, predictions = batch
    strong, _ = make_labeler(strong=True)(weak, predictions)
    plain, _ = make_labeler()(weak, predictions)
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(weak, strong, strict=True))
    for a, b in zip(strong, plain, strict=True):
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)


def test_input_is_untouched(make_labeler, batch, segmenter):
    weak, predictions = batch
    kept_weak, kept_fields = copy.deepcopy(weak), [copy.deepcopy(p.get_fields()) for p in predictions]
    make_labeler(pr=True, arp=True, strong=True)(weak, predictions, segmenter)
    for entry, kept in zip(weak, kept_weak, strict=True):
        assert list(entry) == list(kept)
        assert torch.equal(entry["image"], kept["image"])
    for found, kept in zip(predictions, kept_fields, strict=True):
        assert list(found.get_fields()) == list(kept)
        assert torch.equal(found.soft_masks, kept["soft_masks"])
        assert torch.equal(found.pred_boxes.tensor, kept["pred_boxes"].tensor)


def test_seeds_repeat_and_other_seeds_differ(make_labeler, batch, make_segmenter):
    weak, predictions = batch
    labeler = make_labeler(pr=True, arp=True, strong=True)
    first, second = (labeler(weak, predictions, make_segmenter())[0] for _ in range(2))
    assert same(first, second)
    others = [{**entry, "seed": entry["seed"] + 100} for entry in weak]
    third, _ = labeler(others, predictions, make_segmenter())
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(first, third, strict=True))


def test_without_seeds_the_global_generator_decides(make_labeler, batch, make_segmenter):
    weak, predictions = batch
    bare = [{k: v for k, v in entry.items() if k != "seed"} for entry in weak]
    labeler = make_labeler(pr=True, arp=True, strong=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, _ = labeler(bare, predictions, make_segmenter())
        torch.manual_seed(5)
        second, _ = labeler(bare, predictions, make_segmenter())
    assert same(first, second)


def test_a_step_does_not_change_what_another_draws(make_labeler, batch, segmenter):
    weak, predictions = batch
    with_points, _ = make_labeler(pr=True, strong=True)(weak, predictions, segmenter)
    without, _ = make_labeler(strong=True)(weak, predictions, None)
    for a, b in zip(with_points, without, strict=True):
        assert torch.equal(a["image"], b["image"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_batches_and_no_labels(make_labeler, batch, segmenter, count):
    weak, predictions = batch[0][:count], [p[:0] for p in batch[1][:count]]
    strong, record = make_labeler(pr=True, arp=True, strong=True)(weak, predictions, segmenter)
    assert len(strong) == count
    assert all(len(entry["instances"]) == 0 for entry in strong)
    assert segmenter.encoded == []
    assert record.scalars()["pseudo_labels/selected"] == 0


def test_300_instances(make_labeler, make_predictions, make_squares, segmenter):
    red, masks = make_squares(300, 80, 140, 4)
    weak = [{"image": torch.stack([red] * 3), "seed": i} for i in range(2)]
    strong, record = make_labeler(pr=True, arp=True, strong=True)(
        weak, [make_predictions(masks.float())] * 2, segmenter
    )
    assert [image.refined for image in record.images] == [300, 300]
    assert all(len(entry["instances"]) >= 1 for entry in strong)


def test_predictions_of_another_size_are_refused(make_labeler, batch, make_predictions):
    weak, predictions = batch
    with pytest.raises(ValueError, match=r"0\.png.*\(5, 5\).*\(40, 64\)"):
        make_labeler()(weak, [make_predictions(torch.zeros(0, 5, 5)), *predictions[1:]])
