import numpy as np
import pytest

from d2kit.rng import seeded
from istd.data.view import View


def draw(seed, *size, **options):
    with seeded(seed):
        return View.draw(*size, **options)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_points_go_where_pixels_go(flip, turns):
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    view = View((7, 5, 27, 25), 20, flip, turns)
    points = [[7, 5], [26, 24], [12, 20]]
    crop = view.apply(image)
    assert crop.shape == (20, 20) and crop.flags["C_CONTIGUOUS"]
    assert [crop[y, x] for x, y in view.apply_points(points)] == [image[y, x] for x, y in points]
    assert view.apply_points([[6, 5], [27, 5], [7, 25]]) == [] == view.apply_points([])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_small_images_are_filled_up(flip, turns):
    image = np.ones((3, 5), np.float32)
    view = View((0, 0, 5, 3), 8, flip, turns)
    crop = view.apply(image, fill=7)
    assert crop.shape == (8, 8) and (crop == 1).sum() == 15 and (crop == 7).sum() == 49
    assert all(crop[y, x] == 1 for x, y in view.apply_points([[0, 0], [4, 2]]))


@pytest.mark.parametrize("size", [(10, 10), (96, 135), (300, 64), (300, 400)])
def test_boxes_lie_in_the_image(size):
    for seed in range(30):
        view = draw(seed, *size, side=64)
        x0, y0, x1, y1 = view.box
        assert (x1 - x0, y1 - y0) == (min(64, size[1]), min(64, size[0]))
        assert min(x0, y0) >= 0 and x1 <= size[1] and y1 <= size[0]


def test_the_share_of_crops_with_a_target():
    targets = [[399, 0], [3, 290]]

    def share(target_share):
        views = [draw(seed, 300, 400, side=32, targets=targets, target_share=target_share) for seed in range(200)]
        return np.mean([bool(view.apply_points(targets)) for view in views])

    assert share(1.0) == 1 and share(0.0) < 0.1 and 0.4 < share(0.5) < 0.65


def test_targets_are_anywhere_in_the_crop():
    views = [draw(seed, 300, 300, side=16, targets=[[150, 150]], target_share=1) for seed in range(300)]
    corners = np.array([view.box[:2] for view in views])
    assert (corners.min(0) == 135).all() and (corners.max(0) == 150).all()


def test_views_repeat_with_their_seed_and_differ_without():
    options = {"side": 32, "targets": [[5, 5]], "target_share": 0.5}
    assert draw(3, 100, 100, **options) == draw(3, 100, 100, **options)
    assert len({draw(seed, 100, 100, **options) for seed in range(20)}) > 10


def test_all_flips_and_turns_are_drawn():
    assert {(view.flip, view.turns) for view in (draw(seed, 100, 100, side=32) for seed in range(80))} == {
        (flip, turns) for flip in (False, True) for turns in range(4)
    }


def test_a_finite_set_of_views():
    def one_of(image_id, seed, size=4, of=1):
        with seeded(seed):
            return View.of_set(image_id, size, of, 300, 400, 64)

    drawn = [one_of("a", seed) for seed in range(60)]
    assert len(set(drawn)) == 4 and all(view.recurs for view in drawn)
    assert {view.box for view in drawn}.isdisjoint({one_of("b", seed).box for seed in range(60)})
    assert {view.box for view in drawn}.isdisjoint({one_of("a", seed, of=2).box for seed in range(60)})
    assert len({one_of("a", seed, size=1) for seed in range(9)}) == 1
    with seeded(3):
        View.of_set("a", 4, 1, 300, 400, 64)
        after = np.random.random_sample()
    with seeded(3):
        np.random.randint(4)
        assert np.random.random_sample() == after
