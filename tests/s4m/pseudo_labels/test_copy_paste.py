"""Mixing: pairs, both directions from the images as they came, occlusion, sizes, seeds."""

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from s4m.pseudo_labels.copy_paste import Placement, draw_pairs, mix, paste, place
from s4m.pseudo_labels.masks import tight_boxes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def targets(masks, classes=None):
    count = len(masks)
    return Instances(
        tuple(masks.shape[1:]),
        gt_boxes=Boxes(tight_boxes(masks)),
        gt_classes=torch.arange(count) if classes is None else torch.as_tensor(classes),
        gt_masks=BitMasks(masks),
        gt_weights=torch.linspace(0.5, 1, count),
    )


def block(size, *boxes):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


@pytest.mark.parametrize(
    ("count", "fraction", "pairs"),
    [(0, 0.25, 0), (1, 0.25, 0), (4, 0.25, 1), (8, 0.25, 2), (16, 0.25, 4), (5, 0.9, 2)],
)
def test_pairs(count, fraction, pairs):
    drawn = draw_pairs(count, fraction, generator())
    assert len(drawn) == pairs
    assert len({i for pair in drawn for i in pair}) == 2 * pairs
    assert drawn == draw_pairs(count, fraction, generator())
    assert count < 8 or drawn != draw_pairs(count, fraction, generator(1))


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_the_mixed_share_does_not_depend_on_the_batch(count):
    draws = generator()
    numbers = [len(draw_pairs(count, 0.25, draws)) for _ in range(2000)]
    assert {*numbers} == {count // 4, count // 4 + 1}
    assert sum(numbers) / 2000 == pytest.approx(0.25 * count, abs=0.05)


def test_static_both_directions_by_hand():
    size = (6, 8)
    images = [torch.full((3, *size), value, dtype=torch.uint8) for value in (10, 20)]
    left, right = block(size, (0, 0, 4, 4)), block(size, (2, 2, 6, 6))
    mixed, labels = mix(
        images, [targets(left, [3]), targets(right, [5])], dynamic=False, min_area=0.1, generator=generator()
    )
    # each image shows the other's square, on top, from the images as they came
    assert torch.equal(mixed[0], torch.where(right[0], 20, images[0]).to(torch.uint8))
    assert torch.equal(mixed[1], torch.where(left[0], 10, images[1]).to(torch.uint8))
    assert labels[0].gt_classes.tolist() == [3, 5]
    assert torch.equal(labels[0].gt_masks.tensor, torch.cat([left & ~right, right]))
    assert labels[0].gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [2, 2, 6, 6]]
    assert labels[1].gt_classes.tolist() == [5, 3]
    assert torch.equal(labels[1].gt_masks.tensor, torch.cat([right & ~left, left]))
    assert (images[0] == 10).all()
    assert (images[1] == 20).all()


def test_a_covered_instance_leaves_and_small_or_ignored_ones_are_not_pasted():
    size = (10, 10)
    images = [torch.full((3, *size), value, dtype=torch.uint8) for value in (10, 20)]
    covered = targets(block(size, (4, 4, 6, 6)), [1])
    origin = targets(block(size, (2, 2, 8, 8), (0, 0, 1, 1), (8, 0, 10, 10)), [2, 3, -1])
    mixed, labels = mix(images, [covered, origin], dynamic=False, min_area=0.05, generator=generator())
    assert labels[0].gt_classes.tolist() == [2]
    assert labels[0].gt_weights.tolist() == [0.5]
    assert int((mixed[0] == 20).sum()) == 3 * 36
    assert labels[1].gt_classes.tolist() == [2, 3, -1]  # what is pasted there is too small
    assert torch.equal(mixed[1], images[1])


def test_later_pastes_cover_earlier_ones():
    size = (8, 8)
    origin = targets(block(size, (0, 0, 5, 5), (3, 3, 8, 8)), [1, 2])
    placements = [Placement((0, 0, 5, 5), (5, 5), (0, 0)), Placement((3, 3, 8, 8), (5, 5), (3, 3))]
    image = torch.zeros(3, *size, dtype=torch.uint8)
    _, labels = paste(image, targets(block(size)), image + 9, origin, placements)
    assert labels.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [21, 25]
    assert not labels.gt_masks.tensor.all(dim=0).any()


@pytest.mark.parametrize(("corner", "area"), [((-2, -1), 6), ((7, 4), 4), ((3, 0), 16), ((40, 0), 0), ((-4, 0), 0)])
def test_pastes_are_cut_at_the_border(corner, area):
    origin_image = torch.arange(36, dtype=torch.uint8).view(1, 6, 6).expand(3, -1, -1)
    image = torch.full((3, 6, 9), 200, dtype=torch.uint8)
    origin = targets(block((6, 6), (1, 1, 5, 5)))
    mixed, labels = paste(
        image, targets(block((6, 9))), origin_image, origin, [Placement((1, 1, 5, 5), (4, 4), corner)]
    )
    assert int((mixed[0] != 200).sum()) == area
    assert labels.image_size == (6, 9)
    if area:
        assert int(labels.gt_masks.tensor.sum()) == area
        y, x = (mixed[0] != 200).nonzero()[0].tolist()
        assert mixed[0, y, x] == origin_image[0, y - corner[1] + 1, x - corner[0] + 1]
    else:
        assert len(labels) == 0


def test_images_of_different_sizes_stay_in_their_own_frames():
    sizes = [(20, 31), (33, 17)]
    images = [torch.full((3, *size), i, dtype=torch.uint8) for i, size in enumerate(sizes)]
    labels = [targets(block(sizes[0], (20, 5, 31, 15))), targets(block(sizes[1], (2, 18, 12, 30)))]
    mixed, result = mix(images, labels, dynamic=False, min_area=0.01, generator=generator())
    assert [tuple(m.shape[1:]) for m in mixed] == sizes
    assert [r.image_size for r in result] == sizes
    assert result[0].gt_masks.tensor[1].nonzero().aminmax(dim=0)[1].tolist() == [19, 11]  # cut at row 20
    assert len(result[1]) == 1  # columns 20 to 31 do not exist there


def test_dynamic_scale_and_position():
    size = (100, 140)
    origin = targets(block(size, *[(30, 40, 70, 60)] * 400))
    placements = place(origin, (50, 80), (0.8, 1.2), generator())
    heights = torch.tensor([p.size[0] for p in placements]).float()
    assert (heights.min(), heights.max()) == (16, 24)
    assert abs(heights.mean() - 20) < 0.5
    assert all(abs(p.size[1] - 2 * p.size[0]) <= 1 for p in placements)
    centers = torch.tensor([[p.corner[0] + p.size[1] // 2, p.corner[1] + p.size[0] // 2] for p in placements]).float()
    assert centers.amin(dim=0).tolist() == [0, 0]
    assert centers.amax(dim=0).tolist() == [79, 49]
    assert place(origin[:0], (50, 80), (0.8, 1.2), generator()) == []


def test_a_rescaled_instance_keeps_its_picture_and_shape():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    disk = ((y - 20) ** 2 + (x - 30) ** 2 < 15**2)[None]
    picture = torch.where(disk, 4 * x, 255).expand(3, -1, -1).to(torch.uint8)
    origin = targets(disk)
    box = tuple(tight_boxes(disk)[0].long().tolist())
    image = torch.full((3, 80, 90), 250, dtype=torch.uint8)
    mixed, labels = paste(image, targets(block((80, 90))), picture, origin, [Placement(box, (58, 58), (10, 12))])
    mask = labels.gt_masks.tensor[0]
    assert int(mask.sum()) == pytest.approx(int(disk.sum()) * 4, rel=0.03)
    assert torch.equal((mixed != 250).any(dim=0), mask)
    row = mixed[0, 41].tolist()
    assert row[39] == pytest.approx(120, abs=3)
    assert row[59] - row[19] == pytest.approx(80, abs=3)


def test_maps_move_and_are_occluded_with_the_masks():
    size = (10, 12)
    below, above = targets(block(size, (0, 0, 6, 6))), targets(block(size, (2, 2, 6, 6)))
    below.gt_soft_masks = torch.full((1, *size), 0.25)
    above.gt_soft_masks = torch.full((1, *size), 0.75)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    _, labels = paste(image, below, image, above, [Placement((2, 2, 6, 6), (4, 4), (5, 5))])
    pasted = block(size, (5, 5, 9, 9))[0]
    assert torch.equal(labels.gt_masks.tensor[1], pasted)
    assert torch.equal(labels.gt_soft_masks, torch.stack([0.25 * ~pasted, 0.75 * pasted]))


def test_mixing_follows_its_generators():
    size = (32, 48)
    images = [torch.randint(0, 255, (3, *size), generator=generator(i), dtype=torch.uint8) for i in range(4)]
    labels = [targets(block(size, (4, 4, 20, 20), (22, 10, 40, 30))) for _ in range(4)]

    def run(pairing, seed):
        own = [generator(seed + i) for i in range(4)]
        return torch.stack(mix(images, labels, min_area=0.01, generator=generator(pairing), generators=own)[0])

    assert torch.equal(run(0, 5), run(0, 5))
    assert not torch.equal(run(0, 5), run(0, 9))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_left_alone(count):
    images = [torch.zeros(3, 5, 5, dtype=torch.uint8)] * count
    labels = [targets(block((5, 5), (0, 0, 5, 5)))] * count
    mixed, result = mix(images, labels, generator=generator())
    assert mixed == images
    assert result == labels


def test_no_instances_and_300_instances(make_squares):
    _, masks = make_squares(300, 80, 140, 4)
    images = [torch.full((3, 80, 140), value, dtype=torch.uint8) for value in (0, 255)]
    empty, many = targets(masks[:0]), targets(masks)
    mixed, result = mix(images, [empty, empty], min_area=0, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(mixed, images, strict=True))
    mixed, result = mix(images, [empty, many], min_area=0, dynamic=True, generator=generator())
    assert 100 < len(result[0]) <= 300
    assert torch.equal(result[0].gt_masks.tensor.any(dim=0), mixed[0][0] == 255)
    assert torch.equal(result[0].gt_boxes.tensor, tight_boxes(result[0].gt_masks.tensor))
    assert len(result[1]) == 300
