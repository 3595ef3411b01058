"""Matching by hand-written references: the Hungarian method and its thresholds."""

import itertools

import pytest
import torch

from s4m.pseudo_labels import matching
from s4m.pseudo_labels.masks import mask_iou
from s4m.pseudo_labels.matching import MatchingThresholds, Outcome, assign, group_duplicates, match, overlaps

SIZE = (24, 40)


def bar(start, stop, rows=(4, 8)):
    """(H, W) bool, columns start to stop of some rows."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[rows[0] : rows[1], start:stop] = True
    return mask


def answers(*prompts):
    """Candidates (N, K, H, W) and quality (N, K) of lists of (mask, predicted IoU)."""
    masks = torch.stack([torch.stack([mask for mask, _ in prompt]) for prompt in prompts])
    return masks, torch.tensor([[quality for _, quality in prompt] for prompt in prompts])


def test_overlaps_against_counted_pixels():
    teacher = torch.stack([bar(0, 10), bar(20, 30), bar(0, 0)])
    candidates = torch.stack([bar(5, 25), bar(0, 5), bar(0, 0)])
    lie = overlaps(teacher, candidates)
    assert torch.equal(lie.covered, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(lie.outside, torch.tensor([[1.5, 0.0, 0.0], [1.5, 0.5, 0.0], [80.0, 20.0, 0.0]]))
    assert torch.equal(lie.inside, torch.tensor([[0.25, 1.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(lie.iou, torch.tensor([[0.2, 0.5, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    profit = torch.rand(4, 7, generator=generator) * (torch.rand(4, 7, generator=generator) > 0.4)
    groups = torch.tensor([0, 1, 1, 2, 3, 0, 2])

    def total(columns):
        taken = [int(groups[c]) for c in columns if c >= 0]
        return sum(float(profit[r, c]) for r, c in enumerate(columns) if c >= 0) if len({*taken}) == len(taken) else -1

    best = max(total(columns) for columns in itertools.product(range(-1, 7), repeat=4))
    found = assign(profit, groups).tolist()
    assert total(found) == pytest.approx(best)
    assert all(column < 0 or profit[row, column] > 0 for row, column in enumerate(found))


def test_assignment_of_nothing():
    assert assign(torch.zeros(3, 0), torch.zeros(0, dtype=torch.int64)).tolist() == [-1, -1, -1]
    assert assign(torch.zeros(0, 2), torch.arange(2)).tolist() == []
    assert assign(torch.zeros(2, 2), torch.arange(2)).tolist() == [-1, -1]


def test_duplicates_gather_around_the_first():
    iou = torch.tensor([[1.0, 0.9, 0.7, 0.0], [0.9, 1.0, 0.9, 0.0], [0.7, 0.9, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert group_duplicates(iou, torch.tensor([3.0, 2.0, 1.0, 0.0]), 0.8).tolist() == [0, 0, 1, 2]
    assert group_duplicates(iou, torch.tensor([0.0, 3.0, 0.0, 0.0]), 0.8).tolist() == [0, 0, 0, 1]
    assert group_duplicates(torch.zeros(0, 0), torch.zeros(0), 0.8).tolist() == []


def test_the_nearest_candidate_and_of_near_ones_the_trusted():
    teacher = bar(0, 10)[None]
    candidates = answers([(bar(0, 7), 0.95), (bar(0, 11), 0.5), (bar(0, 9), 0.9)])
    result = match(teacher, *candidates, MatchingThresholds())
    # IoU x quality: 0.7 x 0.95, 10/11 x 0.5, 0.9 x 0.9
    assert result.parts == [[2]] and result.outcome.tolist() == [Outcome.MATCHED]
    assert not result.over_segmented.any()


@pytest.mark.parametrize(
    ("answer", "outcome", "over"),
    [
        (bar(0, 5), Outcome.PART, True),
        (bar(0, 17), Outcome.LEAK, False),
        (bar(0, 17, (4, 12)), Outcome.LEAK, False),
        (bar(30, 33), Outcome.APART, False),
        (bar(0, 0), Outcome.APART, False),
        (bar(0, 6), Outcome.MATCHED, False),  # exactly the least share
        (bar(0, 16), Outcome.MATCHED, False),  # exactly the most leak
    ],
)
def test_thresholds(answer, outcome, over):
    result = match(bar(0, 10)[None], *answers([(answer, 0.9), (bar(0, 0), 0.1)]), MatchingThresholds())
    assert result.outcome.tolist() == [outcome] and result.over_segmented.tolist() == [over]
    assert result.parts == [[0] if outcome == Outcome.MATCHED else []]


def test_parts_are_merged_where_nothing_fits():
    teacher = torch.stack([bar(0, 10), bar(20, 30)])
    candidates = answers([(bar(0, 5), 0.9), (bar(5, 10), 0.7)], [(bar(20, 30), 0.8), (bar(20, 24), 0.9)])
    result = match(teacher, *candidates, MatchingThresholds())
    assert result.parts == [[0, 1], [2]]
    assert result.outcome.tolist() == [Outcome.MATCHED] * 2 and result.over_segmented.tolist() == [True, True]
    apart = match(teacher, *candidates, MatchingThresholds(merge=False))
    assert apart.parts == [[], [2]] and apart.outcome.tolist() == [Outcome.PART, Outcome.MATCHED]


def test_parts_are_merged_of_what_nobody_took():
    whole, inner = bar(0, 20, (0, 20)), bar(8, 12, (2, 18))
    halves = [(bar(0, 20, (0, 11)), 0.9), (bar(0, 20, (9, 20)), 0.8)]
    candidates = answers(halves, [(inner, 0.9), (bar(30, 31), 0.1)])
    result = match(torch.stack([whole, inner]), *candidates, MatchingThresholds())
    assert result.parts == [[0, 1], [2]]
    torch.testing.assert_close(result.agreement, torch.ones(2))
    twice = match(torch.stack([whole, whole]), *answers(halves, halves), MatchingThresholds())
    assert twice.parts == [[0, 1, 2, 3], []]
    assert twice.outcome.tolist() == [Outcome.MATCHED, Outcome.PART]
    torch.testing.assert_close(twice.agreement, torch.tensor([1.0, 11 / 20]))


def test_a_union_of_parts_that_is_still_a_part_is_rejected():
    result = match(bar(0, 20)[None], *answers([(bar(0, 5), 0.9), (bar(4, 8), 0.7)]), MatchingThresholds())
    assert result.parts == [[]] and result.outcome.tolist() == [Outcome.PART]


def test_two_instances_do_not_share_a_mask():
    teacher = torch.stack([bar(0, 10), bar(1, 12)])
    collapsed = answers([(bar(0, 10), 0.9), (bar(0, 3), 0.8)], [(bar(0, 10), 0.9), (bar(30, 33), 0.8)])
    result = match(teacher, *collapsed, MatchingThresholds())
    assert result.parts == [[0], []] and result.outcome.tolist() == [Outcome.MATCHED, Outcome.DUPLICATE]
    other = answers([(bar(0, 10), 0.9), (bar(0, 3), 0.8)], [(bar(0, 10), 0.9), (bar(4, 14), 0.4)])
    assert match(teacher, *other, MatchingThresholds()).parts == [[0], [3]]  # another mask of its own is found


def test_a_candidate_may_serve_another_instance():
    teacher = torch.stack([bar(0, 10), bar(20, 30)])
    swapped = answers([(bar(20, 30), 0.9)], [(bar(0, 10), 0.9)])
    assert match(teacher, *swapped, MatchingThresholds()).parts == [[1], [0]]


@pytest.mark.parametrize("seed", range(3))
def test_only_contested_masks_need_comparing(seed):
    """The same as if all were grouped, on masks that crowd each other."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, 24, (60,), generator=generator).tolist()
    masks = torch.stack([bar(start, start + 10 + start % 3) for start in starts])
    teacher, candidates = masks[:12], masks.view(12, 5, *SIZE)
    quality = torch.rand(12, 5, generator=generator)
    limits = MatchingThresholds(merge=False)
    lie = overlaps(teacher, masks)
    profit = lie.iou * quality.flatten() * lie.permitted(limits)
    every = group_duplicates(mask_iou(masks, masks), profit.sum(dim=0), limits.duplicate)
    expected = assign(profit, every)
    found = match(teacher, candidates, quality, limits).parts
    value = sum(float(profit[row, part]) for row, (part,) in ((r, p) for r, p in enumerate(found) if p))
    assert value == pytest.approx(float(profit[torch.arange(12), expected][expected >= 0].sum()))
    assert len({int(every[part]) for (part,) in filter(None, found)}) == sum(map(bool, found))


def test_no_instance_and_one():
    masks = torch.zeros(0, 6, *SIZE, dtype=torch.bool)
    empty = match(masks[:, 0], masks, torch.zeros(0, 6), MatchingThresholds())
    assert empty.parts == [] and empty.outcome.shape == empty.over_segmented.shape == (0,)
    one = match(bar(0, 10)[None], *answers([(bar(0, 10), 0.2)]), MatchingThresholds())
    assert one.parts == [[0]]


def test_300_instances_side_by_side():
    index = torch.arange(300)
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(120), indexing="ij")
    owner = rows // 5 * 20 + columns // 6
    teacher = (owner == index[:, None, None]) & (columns % 6 > 0)
    candidates = torch.stack([owner == index[:, None, None], owner // 2 == index[:, None, None] // 2], dim=1)
    result = match(teacher, candidates, torch.full((300, 2), 0.7), MatchingThresholds())
    assert result.parts == [[2 * i] for i in range(300)]


def test_300_duplicates_of_one_object():
    teacher = bar(0, 10)[None].expand(300, -1, -1)
    candidates = bar(0, 10).expand(300, 6, -1, -1)
    result = match(teacher, candidates, torch.full((300, 6), 0.5), MatchingThresholds())
    assert sum(len(parts) for parts in result.parts) == 1
    assert torch.bincount(result.outcome).tolist() == [1, 0, 0, 299]


def test_300_instances_of_which_half_are_merged_from_parts():
    index = torch.arange(300)
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(120), indexing="ij")
    owner = rows // 4 * 15 + columns // 8  # 20 rows of 15
    teacher = owner == index[:, None, None]
    halves = torch.stack([teacher & (columns % 8 < 4), teacher & (columns % 8 >= 4)], dim=1)
    halves[::2, 0] = teacher[::2]  # the others are answered in two halves
    result = match(teacher, halves, torch.full((300, 2), 0.7), MatchingThresholds())
    assert result.parts == [[2 * i] if i % 2 == 0 else [2 * i, 2 * i + 1] for i in range(300)]
    assert (result.outcome == Outcome.MATCHED).all() and torch.equal(result.agreement, torch.ones(300))


def test_a_union_looks_only_at_masks_that_overlap(monkeypatch):
    """Full frames of every other instance's mask for each union would be a minute an image of 300 instances."""
    sizes, whole = [], matching.overlaps
    monkeypatch.setattr(matching, "overlaps", lambda a, b: sizes.append((len(a), len(b))) or whole(a, b))
    teacher = torch.stack([bar(10 * i, 10 * i + 10) for i in range(4)])
    left, right = (torch.stack([bar(10 * i + a, 10 * i + a + 5) for i in range(4)]) for a in (0, 5))
    candidates = torch.stack([left, right], dim=1)
    candidates[:3, 0] = teacher[:3]
    result = match(teacher, candidates, torch.full((4, 2), 0.7), MatchingThresholds())
    assert result.parts == [[0], [2], [4], [6, 7]]
    assert sizes == [(4, 8), (1, 1)]
