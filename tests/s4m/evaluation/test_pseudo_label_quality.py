"""Figures of pseudo-labels against counts made by hand, before and after SAM."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from s4m.evaluation.pseudo_label_quality import PseudoLabelQuality, evaluate_pseudo_labels, match_greedily
from s4m.evaluation.reliability import Reliability
from s4m.pseudo_labels.masks import mask_iou, paired_iou
from s4m.pseudo_labels.matching import Outcome
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.pseudo_labels.record import ImageRecord

SIZE = (12, 20)


def columns(*ranges):
    """Masks that fill rows 0 to 9 of the columns from a to b."""
    masks = torch.zeros(len(ranges), *SIZE, dtype=torch.bool)
    for mask, (a, b) in zip(masks, ranges, strict=True):
        mask[:10, a:b] = True
    return masks


def record(before, after, scores, classes, accepted=None, prompted=True):
    count = len(scores)
    return ImageRecord(
        file_name="",
        image=torch.zeros(3, *SIZE, dtype=torch.uint8),
        candidates=count,
        teacher_masks=before,
        masks=after,
        scores=torch.tensor(scores),
        classes=torch.tensor(classes, dtype=torch.int64),
        quality=torch.zeros(count),
        accepted=torch.tensor([True] * count if accepted is None else accepted, dtype=torch.bool),
        prompted=prompted,
    )


def truth(masks, classes):
    return Instances(SIZE, gt_classes=torch.tensor(classes, dtype=torch.int64), gt_masks=BitMasks(masks))


def test_iou_by_hand():
    iou = mask_iou(columns((0, 4), (0, 0)), columns((2, 6), (0, 4), (10, 12), (0, 0)))
    torch.testing.assert_close(iou, torch.tensor([[2 / 6, 1, 0, 0], [0, 0, 0, 0]]))
    assert mask_iou(columns(), columns((0, 1))).shape == (0, 1)
    assert mask_iou(columns((0, 1)), columns()).shape == (1, 0)


def test_iou_of_pairs_is_the_diagonal():
    masks, others = columns((0, 4), (2, 6), (0, 0)), columns((2, 6), (2, 6), (0, 0))
    torch.testing.assert_close(paired_iou(masks, others), mask_iou(masks, others).diagonal())
    assert paired_iou(columns(), columns()).shape == (0,)


def test_iou_in_parts_equals_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks, others = (torch.rand(n, 9, 11, generator=generator) > 0.5 for n in (300, 7))
    together = mask_iou(masks, others)
    monkeypatch.setattr("s4m.pseudo_labels.masks._CHUNK", 500)
    torch.testing.assert_close(mask_iou(masks, others), together)


def test_the_best_scored_chooses_first():
    iou = torch.tensor([[0.9, 0.6], [0.8, 0.0], [0.95, 0.55]])
    assert match_greedily(iou, torch.tensor([0.8, 0.9, 0.7])).tolist() == [1, 0, -1]
    assert match_greedily(iou, torch.tensor([0.8, 0.7, 0.9])).tolist() == [1, -1, 0]
    assert match_greedily(torch.tensor([[0.5], [0.49]]), torch.tensor([0.1, 0.9])).tolist() == [0, -1]
    assert match_greedily(torch.zeros(0, 3), torch.zeros(0)).tolist() == []
    assert match_greedily(torch.zeros(2, 0), torch.zeros(2)).tolist() == [-1, -1]


def test_figures_by_hand():
    quality = PseudoLabelQuality(["cat", "dog", "cow"])
    # the truth: a cat in columns 0 to 9, a dog in 10 to 19; the labels: a poor cat that SAM mends, a dog called cat
    before, after = columns((0, 4), (10, 20)), columns((0, 9), (10, 20))
    quality.add(record(before, after, [0.9, 0.8], [0, 0], [True, False]), truth(columns((0, 10), (10, 20)), [0, 1]))
    quality.add(record(columns(), columns(), [], []), truth(columns((3, 6)), [0]))
    figures = quality.compute()
    assert all(isinstance(value, float) for value in figures.values())
    expected = {
        "labels": 1.0,
        "truths": 1.5,
        "refined": 0.5,
        "rejected": 0.5,
        "before/precision": 0.0,
        "before/recall": 0.0,
        "before/iou": 0.2,
        "after/precision": 0.5,
        "after/recall": 1 / 3,
        "after/iou": 0.45,
        "cat/after/recall": 0.5,
        "cat/after/precision": 0.5,
        "dog/after/precision": 0.0,
        "dog/truths": 0.5,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert not any("cow" in name for name in figures)


def test_outcomes_of_matching_are_counted_over_all_images():
    quality, masks = PseudoLabelQuality(["cat"]), columns((0, 4), (5, 9), (10, 14))
    outcome = torch.tensor([Outcome.MATCHED, Outcome.PART, Outcome.MATCHED])
    three = record(masks, masks, [0.9] * 3, [0] * 3)
    quality.add(three, truth(masks, [0] * 3))
    assert not any("match/" in name for name in quality.compute())
    three = replace(three, match_outcome=outcome, over_segmented=torch.tensor([False, True, False]))
    one = record(masks[:1], masks[:1], [0.9], [0])
    one = replace(one, match_outcome=outcome[:1], over_segmented=torch.tensor([True]))
    none = replace(
        record(columns(), columns(), [], []), match_outcome=outcome[:0], over_segmented=torch.zeros(0, dtype=torch.bool)
    )
    for image in (three, one, none):
        quality.add(image, truth(masks, [0] * 3))
    found = {name: value for name, value in quality.compute().items() if "match/" in name}
    wanted = {"matched": 0.75, "apart": 0.0, "leak": 0.0, "part": 0.25, "duplicate": 0.0, "over_segmented": 0.5}
    assert found == {f"match/{name}": value for name, value in wanted.items()}


def test_one_truth_is_found_once():
    quality = PseudoLabelQuality(["cat"])
    twice = columns((0, 10), (0, 9))
    quality.add(record(twice, twice, [0.8, 0.9], [0, 0], prompted=False), truth(columns((0, 10)), [0]))
    figures = quality.compute()
    assert (figures["after/precision"], figures["after/recall"]) == (0.5, 1.0)
    assert figures["after/iou"] == pytest.approx(0.95)
    assert figures["rejected"] == 0


def test_nothing_at_all_is_zero_not_nan():
    quality = PseudoLabelQuality(["cat"])
    assert set(quality.compute().values()) == {0.0}
    quality.add(record(columns(), columns(), [], []), truth(columns(), []))
    quality.add(record(columns(), columns(), [], []), Instances(SIZE, gt_classes=torch.zeros(0).long()))
    assert set(quality.compute().values()) == {0.0}
    quality.add(record(columns((0, 3)), columns((0, 3)), [0.9], [0]), truth(columns(), []))
    assert quality.compute()["after/precision"] == 0
    assert quality.compute()["labels"] == pytest.approx(1 / 3)
    assert set(PseudoLabelQuality(["cat"]).compute().values()) == {0.0}


def test_ignored_truth_and_polygons():
    quality = PseudoLabelQuality(["cat"])
    polygons = PolygonMasks([[np.array([0, 0, 10, 0, 10, 10, 0, 10.0])], [np.array([12, 0, 18, 0, 18, 10, 12, 10.0])]])
    annotated = Instances(SIZE, gt_classes=torch.tensor([0, -1]), gt_masks=polygons)
    quality.add(record(columns((0, 10)), columns((0, 10)), [0.9], [0]), annotated)
    figures = quality.compute()
    assert (figures["truths"], figures["after/recall"], figures["after/precision"]) == (1, 1, 1)


def test_labels_in_void_or_a_crowd_of_their_class_are_not_there():
    quality = PseudoLabelQuality(["cat", "dog"], reliability=Reliability())
    # a cat; in void; in the dogs' crowd a dog and a cat; the teacher's mask in void and SAM's on nothing
    before = columns((0, 4), (4, 8), (12, 20), (12, 20), (4, 8))
    after = columns((0, 4), (5, 9), (12, 18), (12, 18), (9, 12))
    found = record(before, after, [0.9, 0.8, 0.7, 0.6, 0.5], [0, 0, 1, 0, 0], [True, False, True, True, True])
    found = replace(found, confidence=torch.full((5,), 0.5), ignored=torch.zeros(5, dtype=torch.bool))
    image = found, truth(columns((0, 4), (4, 9)), [0, -1])
    quality.add(*image, truth(columns((12, 20)), [1]))
    figures = quality.compute()
    counts = [figures[name] for name in ("labels", "truths", "refined", "rejected")]
    assert counts == [3, 1, 3, 0] and figures["cat/labels"] == 3 and "dog/labels" not in figures
    for when in ("before", "after"):
        expected = {"precision": 1 / 3, "recall": 1.0, "iou": 1 / 3}
        assert {key: figures[f"{when}/{key}"] for key in expected} == pytest.approx(expected)
    for sums in quality.reliability.gather().values():
        assert sums[:, 0].sum() == 3 and sums[:, 2].sum() == 1
    quality.add(*image)  # without its crowd the dog is wrong
    assert quality.compute()["labels"] == 7 / 2 and quality.compute()["dog/labels"] == 1 / 2


def test_300_labels():
    quality = PseudoLabelQuality(["cat", "dog"])
    masks = columns((0, 5), (5, 10), (10, 15)).repeat(100, 1, 1)
    scores = torch.linspace(0.7, 1, 300).tolist()
    quality.add(record(masks, masks, scores, [0] * 300), truth(masks[:3], [0, 0, 1]))
    figures = quality.compute()
    assert figures["after/precision"] == pytest.approx(2 / 300)
    assert figures["after/recall"] == pytest.approx(2 / 3)


def test_evaluating_a_labeler():
    def pair(a, b, score):
        soft = columns((a, b)).float()
        predictions = Instances(
            SIZE,
            pred_boxes=Boxes(torch.tensor([[a, 0.0, b, 10]])),
            scores=torch.tensor([score]),
            pred_classes=torch.tensor([0]),
            soft_masks=soft,
        )
        image = torch.zeros(3, *SIZE, dtype=torch.uint8)
        return {"image": image, "file_name": f"{a}.png", "instances": truth(columns((0, 10)), [0])}, predictions

    labeler = PseudoLabeler(score=0.7, strong={}, mixing={})
    pairs = [pair(0, 8, 0.9), pair(5, 15, 0.8), pair(0, 10, 0.6)]
    state = torch.random.get_rng_state()
    figures, example = evaluate_pseudo_labels(iter(pairs), labeler, None, ["cat"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert figures["after/precision"] == 0.5
    assert figures["after/recall"] == pytest.approx(1 / 3)
    assert figures["labels"] == pytest.approx(2 / 3)
    assert example.file_name == "5.png"
    pairs[1][0]["crowds"] = truth(columns((0, 20)), [0])  # the label that is wrong lies in it, the right one too
    assert evaluate_pseudo_labels(pairs, labeler, None, ["cat"])[0]["after/precision"] == 1.0
    assert evaluate_pseudo_labels([], labeler, None, ["cat"])[1] is None
