"""PASCAL VOC 2012 instance segmentation and its extension SBD, as COCO-format jsons.

In VOC, SegmentationObject holds object ids and SegmentationClass their classes, both as palette PNGs with 255 for void.
SBD (Semantic Boundaries Dataset) has one `inst/NAME.mat` for each of its images, all from VOC 2012, and has no void.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image
from tqdm import tqdm

from d2kit.coco_masks import encode_mask
from s4m.data.coco import register_coco_json, write_json

VOC_CLASSES = tuple(CLASS_NAMES)
_VOID = 255


@dataclasses.dataclass(frozen=True)
class ObjectMap:
    """Annotation of one image.

    Attributes:
        ids: (H, W) integers, 0 where there is no object, otherwise the object's id; ids may have gaps.
        classes: class of each id, 1 to 20.
        void: (H, W) bool, pixels that belong to no object and count neither for nor against a prediction.
    """

    ids: np.ndarray
    classes: dict[int, int]
    void: np.ndarray


@contextlib.contextmanager
def _errors_name(file: str, problem: str) -> Iterator[None]:
    """Let the errors of reading say that the file does not exist, or has the problem."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} does not exist") from error
    except Exception as error:  # Readers raise many types for a damaged file.
        raise ValueError(f"{file} {problem} ({error})") from error


def _read_indices(path: Path) -> np.ndarray:
    """Return the (H, W) uint8 palette indices or gray levels of a PNG."""
    with _errors_name(f"annotation '{path}'", "cannot be read"), Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"it is of mode {image.mode}: VOC's annotations are palette PNGs")
        return np.array(image)


def read_voc(root: str | os.PathLike, name: str) -> ObjectMap:
    """Read SegmentationObject and SegmentationClass of one image; no XML is needed.

    An object has the class of most of its pixels. Pixels are void if either PNG marks them 255, or if they have a class
    but no object: objects (0, 1, 1, 255, 0) and classes (0, 5, 255, 255, 5) give ids (0, 1, 0, 0, 0), the class 5 for
    the object 1, and void (0, 0, 1, 1, 1).

    Args:
        root: folder of VOC2012.
        name: image name without suffix.

    Raises:
        FileNotFoundError: a PNG is absent.
        ValueError: a file is no palette PNG, the two differ in size, or an object has no class from 1 to 20.
    """
    path = Path(root, "SegmentationObject", f"{name}.png")
    objects = _read_indices(path)
    classes = _read_indices(Path(root, "SegmentationClass", f"{name}.png"))
    if objects.shape != classes.shape:
        raise ValueError(f"'{path}' is {objects.shape}, but its SegmentationClass is {classes.shape}")
    void = (objects == _VOID) | (classes == _VOID) | ((objects == 0) & (classes > 0))
    ids = np.where(void, 0, objects)
    class_of = {}
    for key in np.unique(ids[ids > 0]).tolist():
        counts = np.bincount(classes[ids == key], minlength=_VOID + 1)
        counts[0] = 0
        class_of[key] = int(counts.argmax())
        if not 1 <= class_of[key] <= len(VOC_CLASSES):
            raise ValueError(f"'{path}': object {key} has no class from 1 to {len(VOC_CLASSES)} in SegmentationClass")
    return ObjectMap(ids, class_of, void)


def read_sbd(root: str | os.PathLike, name: str) -> ObjectMap:
    """Read `inst/NAME.mat` of SBD: a struct GTinst with Segmentation (object ids) and Categories (class of each id).

    Args:
        root: SBD's folder `dataset`, which holds `inst`.
        name: image name without suffix.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: the file holds no GTinst, or an object without a class from 1 to 20.
    """
    path = Path(root, "inst", f"{name}.mat")
    with _errors_name(f"annotation '{path}'", "is not an SBD file with GTinst"), open(path, "rb") as file:
        truth = scipy.io.loadmat(file)["GTinst"][0, 0]
        ids = truth["Segmentation"]
        categories = truth["Categories"].ravel()
    classes = {}
    for key in np.unique(ids[ids > 0]).tolist():
        if key > len(categories) or not 1 <= categories[key - 1] <= len(VOC_CLASSES):
            raise ValueError(f"'{path}': object {key} has no class from 1 to {len(VOC_CLASSES)} in Categories")
        classes[key] = int(categories[key - 1])
    return ObjectMap(ids, classes, np.zeros(ids.shape, bool))


def to_coco(names: Sequence[str], image_root: str | os.PathLike, read: Callable[[str], ObjectMap] | None) -> dict:
    """Return a COCO content of the named images, ordered by name, with ids from 1.

    Masks are RLE; `bbox` (x, y, w, h) and `area` are the mask's, in pixels; `object` is the id in the source. An image
    with void pixels has them as RLE under `void`.

    Args:
        names: image names without suffix.
        image_root: folder of the JPEGs.
        read: function that reads the annotation of a name; None for images without labels.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: an image and its annotation differ in size.
    """
    images = []
    annotations = []
    for image_id, name in enumerate(tqdm(sorted(names), desc="VOC", unit="image", disable=None), start=1):
        path = Path(image_root, f"{name}.jpg")
        with _errors_name(f"image '{path}'", "is not an image"), Image.open(path) as header:
            width, height = header.size
        image = {"id": image_id, "file_name": path.name, "height": height, "width": width}
        if read is not None:
            objects = read(name)
            if objects.ids.shape != (height, width):
                raise ValueError(f"image '{path}' is {(height, width)}, but its annotation is {objects.ids.shape}")
            if objects.void.any():
                image["void"] = encode_mask(objects.void)["segmentation"]
            for key, category in objects.classes.items():
                annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0}
                annotations.append({**annotation, **encode_mask(objects.ids == key), "object": key})
        images.append(image)
    categories = [{"id": number, "name": name} for number, name in enumerate(VOC_CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_names(path: str | os.PathLike) -> list[str]:
    """Read the image names of a list file: the first word of each line.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file names no image, or an image twice.
    """
    with _errors_name(f"image list '{path}'", "is not a text file"):
        names = [line.split()[0] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"image list '{path}' names {'an image twice' if names else 'no image'}")
    return names


def train_aug_names(voc: str | os.PathLike, sbd: str | os.PathLike, val: str = "val") -> list[str]:
    """Name the usual augmented training set: SBD's train and val and VOC's train, without VOC's val.

    The full sets give 10,582 images.
    """
    lists = Path(voc, "ImageSets", "Segmentation")
    names = {name for split in ("train", "val") for name in read_names(Path(sbd, f"{split}.txt"))}
    return sorted((names | set(read_names(lists / "train.txt"))) - set(read_names(lists / f"{val}.txt")))


def prepare_voc(
    voc: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    sbd: str | os.PathLike | None = None,
    lists: Sequence[str] = ("train",),
    val: str = "val",
    unlabeled: Sequence[str] = (),
) -> dict[str, Path]:
    """Write `instances_{list}.json` of VOC's lists, `instances_train_aug.json` with SBD, `image_info_{list}.json`.

    In train_aug an image of VOC's own train list has VOC's annotation, and every other image has SBD's.

    Args:
        voc: folder of VOC2012 (JPEGImages, SegmentationClass, SegmentationObject, ImageSets/Segmentation).
        output: folder of the jsons; by default `coco` in `voc`.
        sbd: SBD's folder `dataset` (inst, train.txt, val.txt).
        lists: training lists in ImageSets/Segmentation.
        val: the validation list.
        unlabeled: lists of images that are written without annotations and need none.

    Returns:
        path of each json by `val`, the names of the lists, and `train_aug`.

    Raises:
        FileNotFoundError: a list, an image or an annotation is absent.
        ValueError: a training or unlabeled list shares an image with the validation list, or an annotation is invalid.
    """
    images = Path(voc, "JPEGImages")
    folder = Path(voc, "coco") if output is None else Path(output)
    names = {key: read_names(Path(voc, "ImageSets/Segmentation", f"{key}.txt")) for key in (val, *lists, *unlabeled)}
    for key in (*lists, *unlabeled):
        shared = sorted(set(names[key]) & set(names[val]))
        if shared:
            raise ValueError(
                f"list '{key}' shares {len(shared)} image(s) with the validation list '{val}', such as '{shared[0]}'"
            )
    contents = {key: to_coco(names[key], images, lambda name: read_voc(voc, name)) for key in (val, *lists)}
    if sbd is not None:
        own = set(read_names(Path(voc, "ImageSets/Segmentation/train.txt")))
        both = train_aug_names(voc, sbd, val)
        contents["train_aug"] = to_coco(both, images, lambda n: read_voc(voc, n) if n in own else read_sbd(sbd, n))
    written = {key: write_json(folder / f"instances_{key}.json", content) for key, content in contents.items()}
    for key in unlabeled:
        written[key] = write_json(folder / f"image_info_{key}.json", to_coco(names[key], images, None))
    return written


def voc_metadata(json_file: str | os.PathLike, image_root: str | os.PathLike) -> dict:
    """Return the metadata of a set that is evaluated as VOC is; `dirname` is the folder that may hold Annotations."""
    return {
        "thing_classes": list(VOC_CLASSES),
        "evaluator_type": "voc_instances",
        "dirname": os.path.dirname(os.path.normpath(image_root)),
        "year": 2012,
        "split": Path(json_file).stem,
    }


def register_voc_json(name: str, json_file: str | os.PathLike, image_root: str | os.PathLike) -> None:
    """Register a json of `prepare_voc`, which is then scored by VOC's measures as well; see `register_coco_json`."""
    register_coco_json(name, json_file, image_root, voc_metadata(json_file, image_root))
