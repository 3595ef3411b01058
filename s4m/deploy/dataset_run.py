"""The images of a COCO json are predicted, so that its labels can be compared with what a network finds."""

import os
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from s4m.data.classes import class_indices
from s4m.data.images import read_image
from s4m.deploy.detector import Detector
from s4m.deploy.instance_run import annotation_of
from s4m.deploy.slices import detect_sliced


def predict_dataset(detector: Detector, labels: Mapping, images: str | os.PathLike) -> list[dict]:
    """Return the COCO results of all images of a COCO json, with a progress bar.

    Classes are found by their names; without a name in common, those of the json in the order of their ids are taken
    for those of the network. Instances of classes that the json lacks are left out.

    Args:
        detector: network that runs, on whole images.
        labels: content of the json, checked.
        images: folder of its images.

    Returns:
        results with `image_id`, `category_id`, `score`, `bbox`, `area` in pixels and `segmentation`, an RLE.

    Raises:
        FileNotFoundError, ValueError: an image cannot be read, or has another size than the json says.
    """
    categories = sorted(labels["categories"], key=lambda category: category["id"])
    indices = class_indices(detector.class_names, [category["name"] for category in categories])
    results = []
    for image in tqdm(labels["images"], desc="images", unit="image"):
        path = os.fspath(Path(images, image["file_name"]))
        pixels = read_image(path, "BGR", detector.value_range)
        if pixels.shape[:2] != (image["height"], image["width"]):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ValueError(f"'{path}' is {size} pixels, but the labels say {image['width']}x{image['height']}.")
        found = detect_sliced(detector, pixels, 0, 0)
        for one in (annotation_of(found, number) for number in range(len(found))):
            index = indices[one["category_id"] - 1]
            if 0 <= index < len(categories):
                results.append({"image_id": image["id"], **one, "category_id": categories[index]["id"]})
    return results
