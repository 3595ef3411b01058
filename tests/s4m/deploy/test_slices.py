"""Objects that cross seams are one, and others stay apart."""

import numpy as np
import pytest
import supervision as sv

from s4m.deploy.slices import detect_sliced

SIZE = (60, 100)


def picture(*rectangles, size=SIZE):
    """An image with rectangles (x0, y0, x1, y1, value) on black."""
    image = np.zeros((*size, 3), np.uint8)
    for x0, y0, x1, y1, value in rectangles:
        image[y0:y1, x0:x1] = value
    return image


def rectangle_mask(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    "rectangle",
    [
        (50, 5, 56, 12),  # in one slice
        (20, 20, 90, 45),  # longer than a slice, over many
        (0, 30, 100, 34),  # over the whole width
        (26, 0, 29, 60),  # thin, beside a seam, over the whole height
        (0, 0, 100, 60),  # everything
        (30, 10, 34, 14),  # in the overlap of two slices alone
    ],
)
def test_an_object_over_seams_is_one_with_its_mask(regions, rectangle):
    found = detect_sliced(regions, picture((*rectangle, 250)), tile=40, overlap=10)
    assert len(regions.sizes) == 6 and set(regions.sizes) == {(40, 40)}
    assert len(found) == 1
    np.testing.assert_array_equal(found.mask[0], rectangle_mask(*rectangle))
    assert found.xyxy.tolist() == [list(rectangle)] and found.xyxy.dtype == np.float32
    assert found.confidence == pytest.approx([250 / 255]) and found.class_id.tolist() == [2]


def test_many_objects_in_order_of_their_scores(regions):
    rectangles = [(2, 2, 60, 30, 120), (62, 2, 98, 58, 250), (2, 32, 60, 58, 130), (60, 31, 62, 40, 90)]
    found = detect_sliced(regions, picture(*rectangles), tile=40, overlap=10)
    ordered = [rectangles[number] for number in (1, 2, 0, 3)]
    assert found.xyxy.tolist() == [list(one[:4]) for one in ordered]
    assert found.class_id.tolist() == [2, 1, 1, 0] and found.area.tolist() == [36 * 56, 58 * 26, 58 * 28, 2 * 9]
    for mask, rectangle in zip(np.asarray(found.mask), ordered, strict=True):
        np.testing.assert_array_equal(mask, rectangle_mask(*rectangle[:4]))


def test_touching_objects_of_one_class_stay_apart():
    """Two objects share an edge in the overlap of two slices, and both slices see both."""
    masks = [rectangle_mask(20, 10, 46, 30, (40, 80)), rectangle_mask(46, 10, 70, 30, (40, 80))]
    image = picture((20, 10, 46, 30, 1), (46, 10, 70, 30, 2), size=(40, 80))

    def detector(tile):
        seen = np.stack([tile[..., 0] == value for value in (1, 2)])
        return sv.Detections(np.zeros((2, 4)), mask=seen, confidence=np.ones(2), class_id=np.zeros(2, int))

    found = detect_sliced(detector, image, tile=50, overlap=20)
    assert len(found) == 2
    np.testing.assert_array_equal(np.asarray(found.mask), masks)


def test_a_remnant_at_a_seam_belongs_to_the_object_that_covers_it():
    """The first slice sees a rest of the object, and only half of it; the IoU in the overlap is below one half."""
    calls = []

    def detector(tile):
        mask = np.zeros(tile.shape[:2], bool)
        if not calls:
            mask[10:14, 38:50] = True  # x 38..50 of the image
        else:
            mask[10:22, 8:40] = True  # x 38..70
        calls.append(1)
        return sv.Detections(np.zeros((1, 4)), mask=mask[None], confidence=np.ones(1), class_id=np.zeros(1, int))

    found = detect_sliced(detector, picture(size=(40, 80)), tile=50, overlap=20)
    assert len(calls) == 2 and len(found) == 1
    np.testing.assert_array_equal(found.mask[0], rectangle_mask(38, 10, 70, 22, (40, 80)))


def test_an_object_inside_of_another_stays():
    image = picture((10, 5, 70, 35, 1), (34, 15, 42, 25, 2), size=(40, 80))

    def detector(tile):
        seen = np.stack([tile[..., 0] > 0, tile[..., 0] == 2])
        return sv.Detections(np.zeros((2, 4)), mask=seen, confidence=np.array([0.9, 0.8]), class_id=np.zeros(2, int))

    found = detect_sliced(detector, image, tile=50, overlap=20)
    assert found.xyxy.tolist() == [[10, 5, 70, 35], [34, 15, 42, 25]]


def test_parts_of_other_classes_stay_apart(regions):
    found = detect_sliced(regions, picture((10, 10, 50, 20, 100), (50, 10, 90, 20, 200)), tile=40, overlap=10)
    assert found.xyxy.tolist() == [[50, 10, 90, 20], [10, 10, 50, 20]]


@pytest.mark.parametrize(("tile", "sizes"), [(0, [(60, 100)]), (100, [(60, 100)]), (40, [(40, 40)] * 6)])
def test_nothing_is_found_in_an_empty_image(regions, tile, sizes):
    assert len(detect_sliced(regions, picture(), tile, 10)) == 0 and regions.sizes == sizes


def test_an_image_of_one_slice_is_predicted_in_one_piece(regions):
    found = detect_sliced(regions, picture((3, 4, 9, 10, 250)), 100, 10)
    assert regions.sizes == [SIZE] and np.array_equal(found.mask[0], rectangle_mask(3, 4, 9, 10))


@pytest.mark.parametrize(("tile", "overlap"), [(40, 40), (40, 0), (-1, 0)])
def test_an_overlap_that_does_not_suit(regions, tile, overlap):
    with pytest.raises(ValueError, match=f"slices of {tile} pixels cannot overlap by {overlap}"):
        detect_sliced(regions, picture(), tile, overlap)
