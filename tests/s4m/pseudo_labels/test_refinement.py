"""Refinement takes SAM's most trusted answer, in one call a batch, and asks nothing for nothing."""

import pytest
import torch

from s4m.pseudo_labels.masks import tight_boxes
from s4m.pseudo_labels.refinement import Source, refine
from s4m.pseudo_labels.selection import select


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def scene(make_predictions, make_squares, count, size=(40, 64), side=5):
    """An RGB image, true squares, and a teacher that sees only the left columns of each."""
    red, masks = make_squares(count, *size, side)
    soft = masks.float() * 0.9
    soft[..., 1:] *= masks[..., :-1].float()
    return red.expand(3, -1, -1).contiguous(), masks, select(make_predictions(soft), score=0.5, min_pixels=1.0)


@pytest.mark.parametrize("count", [1, 7, 300])
def test_masks_and_boxes_become_sams(make_predictions, make_squares, segmenter, count):
    size = (40, 64) if count < 100 else (130, 130)
    image, masks, labels = scene(make_predictions, make_squares, count, size)
    before = labels.pred_masks.clone()
    refined = refine([labels], [image], segmenter, num_points=3, generators=generators(1))[0]
    unique = image[0][before.float().flatten(1).argmax(1) // size[1], before.float().flatten(1).argmax(1) % size[1]]
    expected = image[0][None] == unique[:, None, None]
    assert torch.equal(refined.pred_masks, expected)
    assert torch.equal(refined.pred_boxes.tensor, tight_boxes(expected))
    assert torch.equal(refined.teacher_masks, before)
    assert torch.equal(refined.pred_classes, labels.pred_classes)
    assert refined.sam_accepted.all()
    torch.testing.assert_close(refined.sam_quality, torch.full((count,), 0.8))
    assert torch.equal(labels.pred_masks, before)
    assert not labels.has("teacher_masks")


def test_one_call_for_the_images_that_have_instances(make_predictions, make_squares, segmenter):
    scenes = [
        scene(make_predictions, make_squares, n, size) for n, size in ((2, (21, 33)), (0, (30, 30)), (4, (17, 40)))
    ]
    images, labels = [s[0] for s in scenes], [s[2] for s in scenes]
    refined = refine(labels, images, segmenter, num_points=3, generators=generators(3))
    assert segmenter.encoded == [2]
    assert segmenter.decoded == [[(2, 3, 2), (4, 3, 2)]]
    for result, (_, masks, _) in zip(refined, scenes, strict=True):
        assert torch.equal(result.pred_masks, masks)
    assert set(refined[1].get_fields()) == set(refined[0].get_fields())


def test_nothing_to_refine_asks_nothing(make_predictions, segmenter):
    empty = [select(make_predictions(torch.zeros(n, 9, 12)), score=0.5, min_pixels=1.0) for n in (0, 2)]
    images = [torch.zeros(3, 9, 12, dtype=torch.uint8)] * 2
    refined = refine(empty, images, segmenter, num_points=3, generators=generators(2))
    assert refine([], [], segmenter, num_points=3, generators=[]) == []
    assert [len(r) for r in refined] == [0, 0]
    assert refined[0].sam_quality.shape == (0,)
    assert segmenter.encoded == segmenter.decoded == []


def test_an_empty_answer_keeps_the_teachers_mask(make_predictions, make_squares, make_segmenter):
    image, _, labels = scene(make_predictions, make_squares, 4)
    refined = refine([labels], [image], make_segmenter(trusted=2), num_points=3, generators=generators(1))[0]
    assert not refined.sam_accepted.any()
    assert torch.equal(refined.pred_masks, labels.pred_masks)
    assert torch.equal(refined.pred_boxes.tensor, labels.pred_boxes.tensor)


def test_points_follow_the_images_generators(make_predictions, make_squares, make_segmenter):
    image, _, labels = scene(make_predictions, make_squares, 5)
    seen = []

    class Recorder(make_segmenter):
        def answer(self, red, prompt):
            seen.append(prompt.points)
            return super().answer(red, prompt)

    for seed in (3, 3, 4):
        refine([labels], [image], Recorder(), num_points=3, generators=generators(1, seed))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


class MirrorView:
    """The view is the source mirrored and enlarged twofold."""

    def points_to_source(self, points):
        return torch.stack([19 - points[..., 0] // 2, points[..., 1] // 2], dim=-1)

    def masks_to_view(self, masks):
        return masks.flip(-1).repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_embeddings_of_the_unaugmented_image(make_predictions, make_squares, segmenter):
    red, masks = make_squares(3, 15, 20, 4)
    view = MirrorView()
    labels = select(make_predictions(view.masks_to_view(masks).float()), score=0.5, min_pixels=1.0)
    empty = labels[:0]
    cached = segmenter.encode([torch.zeros(3, 15, 20, dtype=torch.uint8), red.expand(3, -1, -1)])
    asked = []

    def embed(indices):
        asked.append(indices)
        return cached[indices]

    source = Source(embed, [view, view])
    images = [torch.zeros(3, 30, 40, dtype=torch.uint8)] * 2
    refined = refine([empty, labels], images, segmenter, num_points=3, generators=generators(2), source=source)
    assert torch.equal(refined[1].pred_masks, view.masks_to_view(masks))
    assert segmenter.encoded == [2]  # the call above only
    assert asked == [[1]]
    refine([empty, empty], images, segmenter, num_points=3, generators=generators(2), source=source)
    assert len(asked) == 1
