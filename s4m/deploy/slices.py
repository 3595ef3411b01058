"""Images of any size are predicted in overlapping slices, and the parts of an object in several slices become one."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import supervision as sv
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from supervision.detection.compact_mask import CompactMask

from d2kit.tiling import tile_starts

SAME = 0.5  # least IoU, where two slices overlap, of two parts of one object
SEAM = 2  # pixels; a part so near to the edge of its slice is cut off there

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive


class Part(NamedTuple):
    """What a slice shows of an object.

    Attributes:
        tile: the slice.
        box: the box of the mask.
        mask: (h, w) bool, the mask inside of its box.
        score: confidence in [0, 1].
        class_id: index of the class.
    """

    tile: Box
    box: Box
    mask: np.ndarray
    score: float
    class_id: int


def detect_sliced(
    detector: Callable[[np.ndarray], sv.Detections], image: np.ndarray, tile: int, overlap: int
) -> sv.Detections:
    """Find the instances of an image of any size.

    Two parts in different slices are one object if they have the same class, and if their masks agree where the slices
    overlap: their IoU there is at least SAME, or the one that its slice cuts off lies there mostly in the other. The
    object's mask is the union of its parts, and its confidence is the greatest of theirs.

    Args:
        detector: see `s4m.deploy.detector.Detector`.
        image: (H, W, 3) uint8 BGR.
        tile: side of a slice in pixels; 0 predicts the image in one piece, as is an image that fits into one slice.
        overlap: smallest overlap of neighboring slices in pixels, above 0 and below `tile`. An object of which less is
            in the overlap than the seam hides stays in parts.

    Returns:
        detections in the frame of the image, the most confident first, without those of an empty mask. The boxes are
        those of the masks. `mask` is compact (`supervision`'s `CompactMask`), so that its memory does not grow with the
        image.

    Raises:
        ValueError: `overlap` does not suit `tile`.
    """
    if tile < 0 or (tile and not 0 < overlap < tile):
        raise ValueError(f"slices of {tile} pixels cannot overlap by {overlap}: 0 < overlap < slice is needed.")
    height, width = image.shape[:2]
    tile = tile or max(height, width)
    parts = []
    for y0, x0 in itertools.product(tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)):
        box = (x0, y0, min(x0 + tile, width), min(y0 + tile, height))
        parts += _parts(detector(np.ascontiguousarray(image[y0 : box[3], x0 : box[2]])), box)
    return _as_detections([_union(group) for group in _groups(parts, (height, width))], (height, width))


def _parts(found: sv.Detections, tile: Box) -> list[Part]:
    """Return the detections of a slice whose masks are not empty."""
    parts = []
    for number in range(len(found)):
        mask = found.mask[number]
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            x0, x1, y0, y1 = (int(edge) for edge in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
            box = (tile[0] + x0, tile[1] + y0, tile[0] + x1, tile[1] + y1)
            score, class_id = float(found.confidence[number]), int(found.class_id[number])
            parts.append(Part(tile, box, mask[y0:y1, x0:x1].copy(), score, class_id))
    return parts


def _groups(parts: list[Part], size: tuple[int, int]) -> list[list[Part]]:
    """Return the parts of each object."""
    links = []
    for first, second in _neighbors(parts):
        zone = _intersection(parts[first].tile, parts[second].tile)
        common = np.count_nonzero(
            _within(parts[first], _intersection(zone, parts[second].box))
            & _within(parts[second], _intersection(zone, parts[first].box))
        )
        if common:
            areas = [np.count_nonzero(_within(parts[number], zone)) for number in (first, second)]
            links.append((first, second, common / (sum(areas) - common), common / areas[0], common / areas[1]))
    pairs = [(first, second) for first, second, iou, *_ in links if iou >= SAME]
    pairs += _covered(parts, links, size)
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(parts), len(parts)))
    count, labels = connected_components(graph, directed=False) if parts else (0, ())
    groups: list[list[Part]] = [[] for _ in range(count)]
    for part, label in zip(parts, labels, strict=True):
        groups[label].append(part)
    return groups


def _neighbors(parts: list[Part]) -> list[tuple[int, int]]:
    """Return the pairs of parts of one class, in different slices, whose boxes overlap."""
    boxes = np.array([part.box for part in parts]).reshape(-1, 4)
    pairs = []
    for number, part in enumerate(parts):
        x0, y0, x1, y1 = boxes[number + 1 :].T
        meets = (x0 < part.box[2]) & (x1 > part.box[0]) & (y0 < part.box[3]) & (y1 > part.box[1])
        for other in (np.flatnonzero(meets) + number + 1).tolist():
            if parts[other].class_id == part.class_id and parts[other].tile != part.tile:
                pairs.append((number, other))
    return pairs


def _covered(
    parts: list[Part], links: list[tuple[int, int, float, float, float]], size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return each part that its slice cuts off with the part that covers most of it, if that is at least SAME."""
    best: dict[int, tuple[float, int]] = {}
    for first, second, _, of_first, of_second in links:
        for number, other, share in ((first, second, of_first), (second, first, of_second)):
            if share >= SAME and _is_cut(parts[number], size):
                best[number] = max(best.get(number, (0.0, 0)), (share, other))
    return [(number, other) for number, (_, other) in best.items()]


def _is_cut(part: Part, size: tuple[int, int]) -> bool:
    """Whether a part reaches an edge of its slice that is no edge of the image of (height, width)."""
    height, width = size
    low = any(edge > 0 and start - edge < SEAM for start, edge in zip(part.box[:2], part.tile[:2], strict=True))
    ends = zip(part.box[2:], part.tile[2:], (width, height), strict=True)
    return low or any(edge < length and edge - end < SEAM for end, edge, length in ends)


def _intersection(first: Box, second: Box) -> Box:
    return (*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))


def _within(part: Part, box: Box) -> np.ndarray:
    """Return the part's mask in a box, cut to the part's own box."""
    x0, y0, x1, y1 = _intersection(part.box, box)
    left, top = part.box[:2]
    return part.mask[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)]


def _union(group: list[Part]) -> Part:
    """Return the object of which these are the parts."""
    boxes = np.array([part.box for part in group])
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    for part in group:
        left, top, right, bottom = part.box
        mask[top - y0 : bottom - y0, left - x0 : right - x0] |= part.mask
    best = max(group, key=lambda part: part.score)
    return best._replace(box=(x0, y0, x1, y1), mask=mask)


def _as_detections(objects: list[Part], size: tuple[int, int]) -> sv.Detections:
    if not objects:
        return sv.Detections.empty()
    objects = sorted(objects, key=lambda part: -part.score)
    masks = []
    for part in objects:
        height, width = part.mask.shape
        own = CompactMask.from_dense(part.mask[None], np.array([[0, 0, width - 1, height - 1]]), (height, width))
        masks.append(own.with_offset(*part.box[:2], size))
    return sv.Detections(
        xyxy=np.array([part.box for part in objects], np.float32),
        mask=CompactMask.merge(masks),
        confidence=np.array([part.score for part in objects], np.float32),
        class_id=np.array([part.class_id for part in objects]),
    )
