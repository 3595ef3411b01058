"""Given labels against predictions: what differs comes first, with its reason."""

import json

import numpy as np
import pytest

from d2kit.coco_masks import encode_mask
from experiments.label_faults import KINDS, found, inject
from s4m.audit.rank import CLASS, MERGED, MISSED, OUTLINE, UNLABELED, rank
from s4m.data.shapes import write_shapes


def box(left, top, width, height, category=1, image=1, **more):
    mask = np.zeros((64, 64), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return {"image_id": image, "category_id": category, "segmentation": encode_mask(mask)["segmentation"], **more}


def test_nothing_gives_nothing():
    assert rank([], []) == []


def test_a_label_that_the_network_confirms_is_not_in_doubt():
    (finding,) = rank([box(5, 5, 20, 20)], [box(5, 5, 20, 20, score=0.9)])
    assert (finding.doubt, finding.reasons, finding.given, finding.predicted) == (0, (), 0, 0)


@pytest.mark.parametrize(
    ("given", "predicted", "reason"),
    [
        ([box(5, 5, 20, 20)], [box(5, 5, 20, 20, category=2, score=0.9)], CLASS),
        ([box(5, 5, 20, 20)], [box(15, 5, 20, 20, score=0.9)], OUTLINE),
        ([box(5, 5, 40, 20)], [box(5, 5, 19, 20, score=0.9), box(26, 5, 19, 20, score=0.8)], MERGED),
        ([], [box(5, 5, 20, 20, score=0.9)], UNLABELED),
        ([box(5, 5, 20, 20)], [], MISSED),
    ],
)
def test_each_difference_has_its_reason(given, predicted, reason):
    (finding,) = rank(given, predicted)
    assert reason in finding.reasons and finding.doubt > 0.1


def test_a_sure_network_weighs_more_and_a_second_class_less():
    def doubt(*predicted):
        return rank([box(5, 5, 20, 20)], predicted)[0].doubt

    sure = doubt(box(5, 5, 20, 20, category=2, score=0.9))
    unsure = doubt(box(5, 5, 20, 20, category=2, score=0.4))
    torn = doubt(box(5, 5, 20, 20, category=2, score=0.9), box(5, 5, 20, 20, category=1, score=0.8))
    assert sure > unsure > torn > 0


def test_images_do_not_mix_and_every_label_has_one_finding():
    given = [box(5, 5, 20, 20, image=1), box(5, 5, 20, 20, image=2)]
    findings = rank(given, [box(5, 5, 20, 20, image=2, score=0.9), box(40, 40, 10, 10, image=3, score=0.9)])
    assert sorted((finding.given, finding.predicted) for finding in findings if finding.given is not None) == [
        (0, None),
        (1, 0),
    ] or {(finding.given, finding.predicted) for finding in findings} == {(0, None), (1, 0), (None, 1)}
    assert findings == sorted(findings, key=lambda finding: -finding.doubt)


@pytest.fixture(scope="module")
def true_labels(tmp_path_factory):
    path = write_shapes(tmp_path_factory.mktemp("shapes"), 60, seed=3)
    return json.loads(path.read_text())["annotations"]


def test_faults_are_injected_as_they_are_told(true_labels):
    given, faults = inject(true_labels, 40, seed=5)
    assert [fault.kind for fault in faults] == [*KINDS] * 10 and inject(true_labels, 40, seed=5)[1] == faults
    before = {label["id"]: label for label in true_labels}
    after = {label["id"]: label for label in given}
    assert len(after) == len(before) - 20  # 10 are missing, and 10 are in another one.
    changed = {number for number, label in after.items() if label != before[number]}
    assert changed == {fault.label for fault in faults if fault.kind != "missing"}
    assert inject([], 40, seed=5) == ([], [])


def test_an_unsure_network_finds_most_faults_among_the_first_rows(true_labels):
    """The network misses every tenth object, confuses some classes, and finds things that are not there."""
    rng = np.random.default_rng(0)
    predicted = [
        {**label, "score": float(rng.beta(9, 1)), "category_id": 1 + int(rng.integers(5))}
        if rng.random() < 0.05
        else {**label, "score": float(rng.beta(14, 1))}
        for label in true_labels
        if rng.random() < 0.9
    ]
    for image in range(1, 61):
        left, top = rng.integers(0, 100, 2)
        mask = np.zeros((128, 128), np.uint8)
        mask[top : top + 20, left : left + 20] = 1
        ghost = encode_mask(mask)["segmentation"]
        predicted.append({"image_id": image, "category_id": 1, "score": float(rng.beta(2, 4)), "segmentation": ghost})
    given, faults = inject(true_labels, 30, seed=4)
    assert np.mean(found(faults, rank(given, predicted)[:50], given, predicted)) >= 0.8
