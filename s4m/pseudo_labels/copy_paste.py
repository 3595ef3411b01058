"""Copy-paste between the unlabeled images of a batch, in both directions (S4M, ARP)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

from s4m.pseudo_labels.masks import join, tight_boxes


@dataclass(frozen=True)
class Placement:
    """The place of one pasted instance.

    Attributes:
        box: x0, y0, x1, y1 of the cut-out in whole pixels of its own image.
        size: height and width in pixels after resizing.
        corner: x, y of its top left corner in the target's frame; parts outside are cut off.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    corner: tuple[int, int]


def draw_pairs(count: int, fraction: float, generator: torch.Generator | None = None) -> list[tuple[int, int]]:
    """Draw disjoint random pairs of images.

    There are fraction * count pairs, at most half the batch. A fractional number is rounded up or down at random, so
    the share of mixed images does not depend on how many processes share a batch. One image makes no pair.

    Args:
        count: number of images in the batch.
        fraction: share of the batch on each side of the pairs, at most 0.5.
        generator: a generator on the CPU; None draws from torch's global one.
    """
    if count < 2:
        return []
    pairs, rest = divmod(fraction * count, 1)
    pairs = int(pairs) + (rest > 0 and torch.rand((), generator=generator).item() < rest)
    pairs = min(pairs, count // 2)
    order = torch.randperm(count, generator=generator).tolist()
    return list(zip(order[:pairs], order[pairs : 2 * pairs], strict=True))


def mix(
    images: Sequence[torch.Tensor],
    instances: Sequence[Instances],
    *,
    fraction: float = 0.25,
    min_area: float = 3000 / 1024**2,
    dynamic: bool = True,
    scale: Sequence[float] = (0.8, 1.2),
    generator: torch.Generator | None = None,
    generators: Sequence[torch.Generator | None] | None = None,
) -> tuple[list[torch.Tensor], list[Instances]]:
    """Paste the large instances of each image of a pair into the other one.

    Both directions paste from the original images. A pasted instance occludes those under it, earlier pasted ones as
    well; an instance without a visible pixel is removed. Ignored regions (class -1) are not pasted.

    Args:
        images: (3, H, W) uint8, of any sizes, on the device of the instances.
        instances: ground truth of each image with `gt_masks` BitMasks; both images of a pair have the same fields. A
            tensor field (N, H, W), such as `gt_soft_masks`, is moved and occluded with the masks.
        fraction: share of the batch on each side of the pairs (see `draw_pairs`).
        min_area: least area of a pasted instance, as a fraction of its own image.
        dynamic: whether pasted instances are rescaled and get a random center; otherwise they keep their place in
            pixels from the top left corner.
        scale: range of the rescaling factor.
        generator: a generator on the CPU that draws the pairs; None draws from torch's global one.
        generators: one generator on the CPU for each target image, which draws the places in it; None uses
            `generator`.

    Returns:
        the images and instances of the batch; those without a partner are the objects that came in. Boxes of mixed
        images are the tight boxes of the visible masks.
    """
    mixed_images = list(images)
    mixed_instances = list(instances)
    for first, second in draw_pairs(len(images), fraction, generator):
        for target, origin in ((first, second), (second, first)):
            large = _large_enough(instances[origin], min_area)
            if not len(large):
                continue
            size = instances[target].image_size
            own = generator if generators is None else generators[target]
            if dynamic:
                placements = place(large, size, scale, own)
            else:
                boxes = _whole_boxes(large)
                placements = [Placement((x0, y0, x1, y1), (y1 - y0, x1 - x0), (x0, y0)) for x0, y0, x1, y1 in boxes]
            mixed_images[target], mixed_instances[target] = paste(
                images[target], instances[target], images[origin], large, placements
            )
    return mixed_images, mixed_instances


def _large_enough(instances: Instances, min_area: float) -> Instances:
    """Return the instances of a class that cover at least `min_area` of their image."""
    height, width = instances.image_size
    area = instances.gt_masks.tensor.flatten(1).sum(dim=1)
    return instances[(area >= max(min_area * height * width, 1)) & (instances.gt_classes >= 0)]


def _whole_boxes(instances: Instances) -> list[tuple[int, int, int, int]]:
    return [tuple(box) for box in tight_boxes(instances.gt_masks.tensor).long().tolist()]


def place(
    instances: Instances, image_size: tuple[int, int], scale: Sequence[float], generator: torch.Generator | None = None
) -> list[Placement]:
    """Draw for every instance a factor from the range and a center, uniform over the target image (height, width)."""
    numbers = torch.rand(len(instances), 3, generator=generator, dtype=torch.float64).tolist()
    placements = []
    for (x0, y0, x1, y1), (resize, across, down) in zip(_whole_boxes(instances), numbers, strict=True):
        factor = scale[0] + (scale[1] - scale[0]) * resize
        height = max(1, round((y1 - y0) * factor))
        width = max(1, round((x1 - x0) * factor))
        corner = int(across * image_size[1]) - width // 2, int(down * image_size[0]) - height // 2
        placements.append(Placement((x0, y0, x1, y1), (height, width), corner))
    return placements


def paste(
    image: torch.Tensor,
    instances: Instances,
    origin_image: torch.Tensor,
    pasted: Instances,
    placements: Sequence[Placement],
) -> tuple[torch.Tensor, Instances]:
    """Paste instances of another image into an image, the later over the earlier.

    Args:
        image: (3, H, W) uint8 target image.
        instances: its ground truth.
        origin_image: (3, H', W') uint8, the other image.
        pasted: the instances of the other image that are pasted.
        placements: the place of each pasted instance.

    Returns:
        a new image, and the visible instances: those of the target, then the pasted ones.
    """
    image = image.clone()
    owner = torch.full(image.shape[1:], -1, dtype=torch.int64, device=image.device)
    for index, placement in enumerate(placements):
        window, inner = _windows(placement, owner.shape)
        mask = _warp(pasted.gt_masks.tensor[index, None], placement)[0][inner] > 0.5
        owner[window] = torch.where(mask, index, owner[window])
        pixels = _warp(origin_image, placement)[(slice(None), *inner)].round().to(image.dtype)
        window = slice(None), *window
        image[window] = torch.where(mask, pixels, image[window])
    visible = torch.zeros(len(pasted), *owner.shape, dtype=torch.bool, device=owner.device)
    for index, placement in enumerate(placements):
        window, _ = _windows(placement, owner.shape)
        visible[index][window] = owner[window] == index
    old = _occlude(instances, instances.gt_masks.tensor & (owner < 0), owner < 0)
    new = _occlude(_move_maps(pasted, placements, owner.shape), visible, visible)
    together = join(old, new)
    return image, together[together.gt_boxes.nonempty()]


def _warp(stack: torch.Tensor, placement: Placement) -> torch.Tensor:
    """Cut a (C, H, W) stack to the placement's box and resize it to the placement's size, float32."""
    x0, y0, x1, y1 = placement.box
    patch = stack[:, y0:y1, x0:x1].float()
    if tuple(patch.shape[1:]) == placement.size:
        return patch
    return F.interpolate(patch[None], placement.size, mode="bilinear", align_corners=False)[0]


def _windows(placement: Placement, shape: Sequence[int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the target's rows and columns that the placement covers, and these rows and columns in the placement.

    Example: a placement of 5 x 4 pixels with its corner at x = -2, y = 1 in a target of 10 x 10 pixels covers the rows
    1 to 5 and the columns 0 and 1 of the target, which are its own rows 0 to 4 and its own columns 2 and 3.
    """
    window = []
    inner = []
    for start, size, limit in zip(placement.corner[::-1], placement.size, shape, strict=True):
        first = min(max(start, 0), limit)
        last = min(max(start + size, 0), limit)
        window.append(slice(first, last))
        inner.append(slice(first - start, last - start))
    return tuple(window), tuple(inner)


def _map_fields(instances: Instances, shape: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the tensor fields of this shape (N, H, W); `gt_masks` is none of them."""
    fields = instances.get_fields().items()
    return {name: value for name, value in fields if isinstance(value, torch.Tensor) and value.shape == shape}


def _move_maps(instances: Instances, placements: Sequence[Placement], shape: Sequence[int]) -> Instances:
    """Return the instances without their masks, with their other maps placed in a frame (height, width)."""
    result = Instances(tuple(shape))
    maps = _map_fields(instances, instances.gt_masks.tensor.shape)
    for name, value in instances.get_fields().items():
        if name == "gt_masks":
            continue
        if name in maps:
            moved = value.new_zeros(len(instances), *shape)
            for index, placement in enumerate(placements):
                window, inner = _windows(placement, shape)
                moved[index][window] = _warp(value[index, None], placement)[0][inner].to(value.dtype)
            value = moved
        result.set(name, value)
    return result


def _occlude(instances: Instances, masks: torch.Tensor, free: torch.Tensor) -> Instances:
    """Return the instances with these masks (N, H, W) bool, boxes around them, and other maps zeroed outside `free`."""
    result = instances[:]
    for name, value in _map_fields(instances, masks.shape).items():
        result.set(name, value * free)
    result.gt_masks = BitMasks(masks)
    result.gt_boxes = Boxes(tight_boxes(masks))
    return result
