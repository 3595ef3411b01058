"""Given labels against predictions: what differs comes first, with its reason."""

import numpy as np
import pytest

from d2kit.coco_masks import encode_mask
from s4m.audit.rank import CLASS, MERGED, MISSED, OUTLINE, UNLABELED, rank


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
    assert reason in finding.reasons and finding.doubt > 0.05


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
    assert {(finding.given, finding.predicted) for finding in findings} == {(0, None), (1, 0), (None, 1)}
    assert findings == sorted(findings, key=lambda finding: -finding.doubt)
