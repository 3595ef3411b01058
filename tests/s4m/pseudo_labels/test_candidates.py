"""What refinement makes of SAM's candidates: matched to instances, asked for again by box, merged, in any view."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import HFlipTransform, ResizeTransform, TransformList

from s4m.config import add_s4m_config
from s4m.pseudo_labels.masks import tight_boxes
from s4m.pseudo_labels.matching import MatchingThresholds, Outcome
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.pseudo_labels.record import match_counts, match_rates
from s4m.pseudo_labels.refinement import Source, refine
from s4m.pseudo_labels.selection import select
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import Answer, Embedding, Prompts, build_segmenter
from s4m.sam.structures import Frame


class Painter:
    """A segmenter whose image is its embedding: three answers (nothing, the color under the point, half of it)."""

    device = torch.device("cpu")

    def __init__(self, quality=(0.1, 0.8, 0.9)):
        self.quality, self.calls = torch.tensor(quality), []

    def encode(self, images):
        sizes = [tuple(image.shape[1:]) for image in images]
        frames = [Frame(size, size, max(size)) for size in sizes]
        side = max(max(image.shape[1:]) for image in images)
        padded = [
            torch.nn.functional.pad(i[0], (0, side - i.shape[2], 0, side - i.shape[1]), value=255) for i in images
        ]
        return Embedding(torch.stack(padded), frames)

    def decode(self, embedding, prompts, *, enlarge):
        assert not enlarge
        self.calls.append([some.kind[:2] for some in prompts])
        return [
            self.answer(red, some, f)
            for red, some, f in zip(embedding.features, prompts, embedding.frames, strict=True)
        ]

    def answer(self, red, prompts, frame):
        center = prompts.points[:, 0] if prompts.boxes is None else (prompts.boxes[:, :2] + prompts.boxes[:, 2:]) / 2
        x, y = center.long().unbind(1)
        red = red[: frame.side, : frame.side]
        same = red[None] == red[y, x][:, None, None]
        half = same & (torch.arange(frame.side) >= tight_boxes(same)[:, 0, None] + 4)[:, None]
        masks = torch.stack([torch.zeros_like(same), same, half], dim=1)
        return Answer(torch.where(masks, 5.0, -5.0), self.quality.expand(len(x), 3).clone())


def scene(make_predictions, make_squares, count, size=(40, 64), side=8):
    """An RGB image, true squares, and a teacher that misses the left column of each."""
    red, masks = make_squares(count, *size, side)
    soft = masks.float() * 0.9
    soft[..., 1:] *= masks[..., :-1].float()
    return red.expand(3, -1, -1).contiguous(), masks, select(make_predictions(soft), score=0.5, min_pixels=1.0)


def refined(labels, images, segmenter, matching):
    generators = [torch.Generator().manual_seed(i) for i in range(len(images))]
    return refine(labels, images, segmenter, num_points=3, generators=generators, matching=matching)


@pytest.mark.parametrize("box", [True, False])
def test_parts_that_sam_trusts_are_passed_over(make_predictions, make_squares, box):
    scenes = [scene(make_predictions, make_squares, count) for count in (3, 0, 5)]
    segmenter = Painter()
    found = refined([s[2] for s in scenes], [s[0] for s in scenes], segmenter, MatchingThresholds(box=box))
    assert segmenter.calls == [[(3, False)] * 2]  # nothing is left for boxes
    for result, (_, masks, labels) in zip(found, scenes, strict=True):
        assert torch.equal(result.pred_masks, masks)
        assert torch.equal(result.pred_boxes.tensor, tight_boxes(masks))
        assert torch.equal(result.teacher_masks, labels.pred_masks)
        assert result.sam_accepted.all() and result.over_segmented.all()
        torch.testing.assert_close(result.sam_quality, torch.full((len(masks),), 0.8))
    assert {*found[1].get_fields()} == {*found[0].get_fields()}


@pytest.mark.parametrize("box", [True, False])
def test_300_instances_are_refined_or_keep_the_teachers_mask(make_predictions, make_squares, box):
    image, masks, labels = scene(make_predictions, make_squares, 300, (135, 180))
    (found,) = refined([labels], [image], Painter(), MatchingThresholds(box=box))
    index = torch.arange(300)
    alone = (index >= 50) & (index < 250)  # of two squares of one color SAM's answer is both
    assert torch.equal(found.sam_accepted, alone)
    assert torch.equal(found.pred_masks, torch.where(alone[:, None, None], masks, labels.pred_masks))
    assert torch.equal(found.pred_boxes.tensor, tight_boxes(found.pred_masks))
    assert torch.equal(found.match_outcome == Outcome.MATCHED, alone)


class Blind(Painter):
    """By points it sees no square of the colors 1 and 4; it notes how many boxes it is asked about."""

    def __init__(self):
        super().__init__()
        self.boxes = []

    def answer(self, red, prompts, frame):
        answer = super().answer(red, prompts, frame)
        if prompts.boxes is not None:
            self.boxes.append(len(prompts))
            return Answer(answer.masks, answer.quality / 2)
        x, y = prompts.points[:, 0].long().unbind(1)
        hidden = torch.isin(red[y, x], torch.tensor([1, 4]))
        return Answer(torch.where(hidden[:, None, None, None], -5.0, answer.masks), answer.quality)


@pytest.mark.parametrize("merge", [True, False])
def test_boxes_are_asked_about_what_points_leave_without_a_mask(make_predictions, make_squares, merge):
    scenes = [scene(make_predictions, make_squares, count) for count in (3, 2, 0, 4)]
    labels, images, segmenter = [s[2] for s in scenes], [s[0] for s in scenes], Blind()
    found = refined(labels, images, segmenter, MatchingThresholds(box=True, merge=merge))
    assert segmenter.calls == [[(3, False)] * 3, [(0, True)] * 3] and segmenter.boxes == [1, 1, 2]
    for result, (_, masks, _) in zip(found, scenes, strict=True):
        assert torch.equal(result.pred_masks, masks) and (result.match_outcome == Outcome.MATCHED).all()
    torch.testing.assert_close(found[3].sam_quality, torch.tensor([0.4, 0.8, 0.8, 0.4]))
    alone = refined(labels, images, Blind(), MatchingThresholds(box=False, merge=merge))
    assert [some.sam_accepted.tolist() for some in alone] == [
        [False, True, True],
        [False, True],
        [],
        [False, True, True, False],
    ]
    assert torch.equal(alone[0].pred_masks[0], labels[0].pred_masks[0])


def test_a_box_comes_before_a_union_of_parts(make_predictions, make_squares):
    image, masks, labels = scene(make_predictions, make_squares, 3)

    class Halves(Painter):
        def answer(self, red, prompts, frame):
            answer = super().answer(red, prompts, frame)
            if prompts.boxes is not None:
                return answer
            whole, right = answer.masks[:, 1], answer.masks[:, 2]
            left = torch.where((whole > 0) & (right < 0), 5.0, -5.0)
            return Answer(torch.stack([answer.masks[:, 0], left, right], dim=1), answer.quality)

    (found,) = refined([labels], [image], Halves(), MatchingThresholds(box=True))
    assert torch.equal(found.pred_masks, masks)
    torch.testing.assert_close(found.sam_quality, torch.full((3,), 0.8))  # of one mask, not the mean of two parts


def test_masks_merged_of_parts(make_predictions, make_squares):
    image, _, labels = scene(make_predictions, make_squares, 3)

    class Halves(Painter):
        def answer(self, red, prompts, frame):
            answer = super().answer(red, prompts, frame)
            whole, right = answer.masks[:, 1], answer.masks[:, 2]
            left = torch.where((whole > 0) & (right < 0), 5.0, -5.0)
            return Answer(torch.stack([answer.masks[:, 0], left, right], dim=1), answer.quality)

    (found,) = refined([labels], [image], Halves(), MatchingThresholds(box=False))
    truth = image[0][None] == torch.arange(1, 4)[:, None, None]
    assert torch.equal(found.pred_masks, truth) and found.sam_accepted.all()
    torch.testing.assert_close(found.sam_quality, torch.full((3,), 0.85))  # the mean of 0.8 and 0.9


def test_rejected_instances_keep_the_teachers_mask(make_predictions, make_squares):
    image, _, labels = scene(make_predictions, make_squares, 4)
    (found,) = refined([labels], [image], Painter(), MatchingThresholds(part=1.1, merge=False))
    assert torch.equal(found.pred_masks, labels.pred_masks)
    assert torch.equal(found.pred_boxes.tensor, labels.pred_boxes.tensor)
    assert not found.sam_accepted.any() and (found.match_outcome == Outcome.PART).all()
    torch.testing.assert_close(found.sam_quality, torch.full((4,), 0.9))  # of the answer that was not taken
    shares = torch.tensor(
        [4 / 8, 4 / 7, 4 / 7, 4 / 7]
    )  # of the teacher's columns; the first square has no left neighbor
    torch.testing.assert_close(found.sam_agreement, shares)


def test_without_instances_sam_is_not_asked(make_predictions):
    segmenter = Painter()
    empty = select(make_predictions(torch.zeros(2, 9, 12)), score=0.5, min_pixels=1.0)
    (found,) = refined([empty], [torch.zeros(3, 9, 12, dtype=torch.uint8)], segmenter, MatchingThresholds())
    assert len(found) == 0 and found.match_outcome.shape == (0,) and segmenter.calls == []


def test_views_of_the_unaugmented_image(make_predictions, make_squares):
    red, masks = make_squares(4, 40, 64, 8)
    view = ViewTransform(TransformList([HFlipTransform(64), ResizeTransform(40, 64, 80, 128)]), (40, 64), (80, 128))
    labels = select(make_predictions(view.masks_to_view(masks).float()), score=0.5, min_pixels=1.0)
    segmenter = Painter((0.1, 0.9, 0.8))
    embedding = segmenter.encode([red.expand(3, -1, -1)])
    generators = [torch.Generator().manual_seed(0)]
    source = Source(lambda indices: embedding[indices], [view])
    images = [torch.zeros(3, 80, 128, dtype=torch.uint8)]
    matching = MatchingThresholds(box=True)
    options = {"num_points": 3, "generators": generators, "source": source, "matching": matching}
    (found,) = refine([labels], images, segmenter, **options)
    assert found.sam_accepted.all()
    assert torch.equal(found.pred_masks, view.masks_to_view(masks))


@pytest.fixture
def make_labeler():
    def make(**keys):
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.merge_from_list(["S4M.PR.ENABLED", True, "S4M.MATCHING.ENABLED", True, "S4M.STRONG.ENABLED", False])
        cfg.merge_from_list([item for pair in keys.items() for item in pair])
        return PseudoLabeler(cfg)

    return make


def test_configuration_and_statistics(make_labeler, make_predictions, make_squares):
    image, masks, labels = scene(make_predictions, make_squares, 4)
    predictions = make_predictions(labels.soft_masks)
    weak = [{"image": image, "seed": 1}] * 2
    segmenter = Painter()
    _, record = make_labeler(**{"S4M.MATCHING.BOX": True})(weak, [predictions, predictions[:0]], segmenter)
    assert segmenter.calls == [[(3, False)]]
    rates = match_rates(match_counts(record.images), "match/")
    assert (rates["match/matched"], rates["match/over_segmented"], rates["match/leak"]) == (1.0, 1.0, 0.0)
    assert record.scalars("")["refined"] == 2.0 and torch.equal(record.images[0].masks, masks)
    keys = {"S4M.MATCHING.PART": 1.0, "S4M.MATCHING.LEAK": 0.0, "S4M.MATCHING.MERGE": False}
    _, strict = make_labeler(**keys)(weak[:1], [predictions], Painter())
    # the first square is as the teacher sees it; of the others only the half does not leak
    assert (match_rates(match_counts(strict.images), "")["part"], strict.scalars("")["rejected"]) == (0.75, 3.0)
    both = match_rates(match_counts(record.images) + match_counts(strict.images), "")
    assert (both["matched"], both["part"], both["over_segmented"]) == (0.625, 0.375, 1.0)
    _, empty = make_labeler()(weak[:1], [predictions[:0]], Painter())
    assert match_counts(empty.images) is None


def test_matching_needs_refinement(make_labeler):
    with pytest.raises(ValueError, match=r"S4M\.MATCHING\.ENABLED needs .* S4M\.PR\.ENABLED"):
        make_labeler(**{"S4M.PR.ENABLED": False})


def test_tiny_sam_answers_as_its_decoder_gives_them():
    segmenter = build_segmenter("tiny")
    image = torch.randint(0, 255, (3, 50, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embedding = segmenter.encode([image, image])
    prompts = [Prompts(torch.full((n, 1, 2), 20.0), torch.ones(n, 1)) for n in (2, 0)]
    plain, raw = (segmenter.decode(embedding, prompts, enlarge=enlarge) for enlarge in (True, False))
    torch.testing.assert_close(embedding.frames[0].masks_to_image(raw[0].masks), plain[0].masks)
    assert torch.equal(raw[0].quality, plain[0].quality) and len(raw[1].masks) == 0
