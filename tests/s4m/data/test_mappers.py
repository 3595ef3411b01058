import copy
import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image

from d2kit.rng import seeded
from s4m.config import add_s4m_config
from s4m.data.coco import load_coco
from s4m.data.mappers import LabeledMapper, UnlabeledMapper
from s4m.pseudo_labels.view_transform import ViewTransform

HEIGHT, WIDTH = 40, 60
BOX = (10, 5, 30, 25)  # x1, y1, x2, y2


def config(**options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    cfg.INPUT.MIN_SIZE_TEST = 40
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.MODEL.MASK_ON = True
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def lsj(size=64, low=0.5, high=1.5):
    return config(
        INPUT__LSJ__ENABLED=True,
        INPUT__LSJ__SIZE=size,
        INPUT__LSJ__MIN_SCALE=low,
        INPUT__LSJ__MAX_SCALE=high,
        INPUT__RANDOM_FLIP="horizontal",
    )


def crop_after_resize():
    return config(
        INPUT__CROP__ENABLED=True,
        INPUT__CROP__AFTER_RESIZE=True,
        INPUT__CROP__TYPE="absolute",
        INPUT__CROP__SIZE=[30, 50],
        INPUT__MIN_SIZE_TRAIN=(60, 90),
        INPUT__RANDOM_FLIP="horizontal",
    )


def box_mask():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    return mask


def polygon():
    x1, y1, x2, y2 = BOX
    return [[float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]]


def compressed():
    return mask_util.encode(np.asfortranarray(box_mask()))


def uncompressed():
    flat = box_mask().flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}


def annotation(segmentation, **extra):
    x1, y1, x2, y2 = BOX
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    return {**box, "segmentation": segmentation, "iscrowd": 0, **extra}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """An image that is bright exactly where the object is."""
    path = tmp_path_factory.mktemp("pictures") / "box.png"
    Image.fromarray(np.repeat(box_mask()[..., None] * 200 + 20, 3, axis=2)).save(path)
    return str(path)


@pytest.fixture
def record(picture):
    def make(*annotations):
        return {
            "file_name": picture,
            "image_id": 5,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": list(annotations),
        }

    return make


@pytest.mark.parametrize("segmentation", [polygon, compressed, uncompressed])
def test_each_kind_of_segmentation_gives_the_mask(record, segmentation):
    d = LabeledMapper(config())(record(annotation(segmentation())))
    assert d["image"].dtype == torch.uint8 and d["image"].shape == (3, HEIGHT, WIDTH)
    instances = d["instances"]
    assert torch.equal(instances.gt_masks.tensor[0], torch.from_numpy(box_mask().astype(bool)))
    assert instances.gt_boxes.tensor.tolist() == [list(BOX)]
    assert instances.gt_classes.tolist() == [2] and instances.gt_classes.dtype == torch.int64
    assert (d["height"], d["width"], d["image_id"], d["source_size"]) == (HEIGHT, WIDTH, 5, (HEIGHT, WIDTH))
    assert "annotations" not in d


@pytest.mark.parametrize("annotations", [(), (annotation(uncompressed(), iscrowd=1),)], ids=["none", "crowd"])
def test_no_object_gives_empty_instances(record, annotations):
    d = LabeledMapper(config(INPUT__MIN_SIZE_TRAIN=(20,)))(record(*annotations))
    instances = d["instances"]
    assert len(instances) == 0 and instances.image_size == (20, 30)
    assert instances.gt_masks.tensor.shape == (0, 20, 30)
    assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.dtype == torch.int64


def test_crowds_leave_and_others_stay(record):
    d = LabeledMapper(config())(record(annotation(uncompressed(), iscrowd=1), annotation(polygon())))
    assert len(d["instances"]) == 1


def test_crowds_are_told_where_predictions_are_judged(record):
    original = record(annotation(uncompressed(), iscrowd=1), annotation(polygon()))
    cfg = config(DATASETS__UNLABELED=("some",), S4M__CALIBRATION__ENABLED=True)
    plain, found = (LabeledMapper(some)(original) for some in (config(), cfg))
    assert "crowds" not in plain and found["crowds"].gt_classes.tolist() == [2]
    for d in (plain, found):
        assert torch.equal(d["instances"].gt_masks.tensor, found["crowds"].gt_masks.tensor)  # the same box here
        assert d["instances"].gt_classes.tolist() == [2]
    for other in (record(annotation(polygon())), record()):
        assert "crowds" not in LabeledMapper(cfg)(other)


def test_the_record_is_not_changed(record):
    original = record(annotation([np.array(polygon()[0], float)]), annotation(compressed()))
    before = copy.deepcopy(original)
    LabeledMapper(lsj())(original)
    UnlabeledMapper(lsj())(original)
    assert pickle.dumps(original) == pickle.dumps(before)


@pytest.mark.parametrize("segmentation", [polygon, compressed])
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_masks_follow_the_image(record, segmentation, crop, seed):
    cfg = (
        lsj()
        if not crop
        else config(INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="relative", INPUT__CROP__SIZE=[0.7, 0.7])
    )
    with seeded(seed):
        d = LabeledMapper(cfg)(record(annotation(segmentation())))
    bright = (d["image"][0] > 130) & (d["image"][0] != 128)
    for mask, box in zip(d["instances"].gt_masks.tensor, d["instances"].gt_boxes.tensor, strict=True):
        union = (mask | bright).sum()
        assert (mask & bright).sum() > 0.85 * union
        ys, xs = mask.nonzero().T
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert len(d["instances"]) == int(bright.sum() > 4)


def test_same_result_as_detectron2(record):
    cfg = config(INPUT__MASK_FORMAT="bitmask", INPUT__RANDOM_FLIP="horizontal", INPUT__MIN_SIZE_TRAIN=(30, 50))
    original = record(annotation(polygon()), annotation(compressed()))
    for seed in range(4):
        with seeded(seed):
            ours = LabeledMapper(cfg)(copy.deepcopy(original))
        with seeded(seed):
            theirs = DatasetMapper(cfg, is_train=True)(copy.deepcopy(original))
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["instances"].gt_masks.tensor, theirs["instances"].gt_masks.tensor)
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)


def test_padding_is_no_object_and_outside_the_valid_size(record):
    d = LabeledMapper(lsj(size=64, low=0.5, high=0.5))(record(annotation(compressed())))
    h, w = d["valid_size"]
    assert (h, w) == (21, 32) and d["image"].shape == (3, 64, 64)
    assert (d["image"][:, h:] == 128).all() and (d["image"][:, :, w:] == 128).all()
    assert not d["instances"].gt_masks.tensor[:, h:].any() and not d["instances"].gt_masks.tensor[:, :, w:].any()
    assert LabeledMapper(config())(record())["valid_size"] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("shape", [(4, 300), (300, 4), (1, 1)])
def test_jitter_takes_any_shape(tmp_path, shape):
    path = tmp_path / "long.png"
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(path)
    for seed in range(5):
        with seeded(seed):
            d = UnlabeledMapper(lsj(size=32, low=0.1, high=2.0))({"file_name": str(path), "image_id": 1})
        assert d["image"].shape == (3, 32, 32) and min(d["valid_size"]) >= 1
        assert (d["height"], d["width"]) == shape


@pytest.mark.parametrize("make", [lsj, lambda: config(INPUT__CROP__ENABLED=True, INPUT__RANDOM_FLIP="horizontal")])
def test_unlabeled_view_is_the_labeled_one_without_labels(record, make):
    original = record(annotation(polygon()))
    with seeded(3):
        labeled = LabeledMapper(make())(original)
    with seeded(3):
        weak = UnlabeledMapper(make())(original)
    assert torch.equal(labeled["image"], weak["image"])
    assert set(labeled) - set(weak) == {"instances"} and "annotations" not in weak


def test_crop_after_the_resize_has_its_size_whatever_the_scale(record):
    objects = set()
    for seed in range(8):
        with seeded(seed):
            d = LabeledMapper(crop_after_resize())(record(annotation(polygon())))
        assert d["image"].shape == (3, 30, 50) and d["valid_size"] == (30, 50)
        objects.add(int(d["instances"].gt_masks.tensor.sum()))
        assert (d["instances"].gt_masks.tensor.any(0) == (d["image"][0] > 120)).float().mean() > 0.95
    assert len(objects) > 2  # the object is seen at two scales and in parts


def test_crop_larger_than_the_resized_image_is_the_whole(record):
    cfg = crop_after_resize()
    cfg.INPUT.CROP.SIZE = [500, 500]
    assert UnlabeledMapper(cfg)(record())["image"].shape in ((3, 60, 90), (3, 90, 135))


@pytest.mark.parametrize(
    "make", [lsj, lambda: config(INPUT__CROP__ENABLED=True, INPUT__RANDOM_FLIP="horizontal"), crop_after_resize]
)
def test_views_lead_back_to_the_image(record, make):
    for seed in range(5):
        with seeded(seed):
            d = UnlabeledMapper(make())(record())
        size = tuple(d["image"].shape[1:])
        assert d["source_size"] == (HEIGHT, WIDTH)
        assert d["transforms"].apply_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).shape[:2] == size
        points = np.array([[3.0, 4.0], [50.5, 30.0]])
        moved = torch.from_numpy(d["transforms"].apply_coords(points + 0.5) - 0.5)
        back = ViewTransform(d["transforms"], d["source_size"], size).points_to_source(moved)
        assert np.allclose(back, points, atol=1e-3)


def test_results_travel_between_processes(record):
    d = LabeledMapper(lsj())(record(annotation(polygon())))
    again = pickle.loads(pickle.dumps(d))
    assert torch.equal(again["image"], d["image"]) and len(again["transforms"]) == len(d["transforms"])


def test_the_masks_of_an_image_have_a_limit(record):
    cfg = config()
    size = LabeledMapper(cfg)(record(annotation(polygon())))["image"].shape[1:]
    cfg.INPUT.MAX_MASK_GIB = 2 * size.numel() / 2**30
    mapper = LabeledMapper(cfg)
    assert len(mapper(record(*[annotation(polygon())] * 2))["instances"]) == 2
    with pytest.raises(ValueError, match=r"box\.png': the masks of 3 objects .* INPUT\.MAX_MASK_GIB"):
        mapper(record(*[annotation(polygon())] * 3))


def test_errors_name_the_image(record, tmp_path):
    mapper = LabeledMapper(config())
    with pytest.raises(FileNotFoundError, match="gone.png"):
        mapper({**record(), "file_name": str(tmp_path / "gone.png")})
    with pytest.raises(ValueError, match=r"box\.png.*got \(60, 40\), expect \(61, 40\)"):
        mapper({**record(), "width": 61})
    small = mask_util.encode(np.asfortranarray(np.ones((3, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"box\.png': annotation 0 has no valid mask \(an object has an RLE of size"):
        mapper(record(annotation(small)))
    without = annotation(polygon())
    del without["segmentation"]
    with pytest.raises(ValueError, match=r"box\.png': annotation 1 has no valid mask"):
        mapper(record(annotation(polygon()), without))


@pytest.mark.parametrize("make", [lambda: config(INPUT__MIN_SIZE_TRAIN=(200,)), lambda: lsj(size=160)])
def test_real_coco(shared, make):
    root = shared / "data" / "coco128"
    by_id = {}
    for part in ("train", "val"):
        json_file = str(root / "annotations" / f"instances_{part}2017.json")
        dicts = load_coco(f"test_mapped_{part}", json_file, str(root / f"{part}2017"))
        by_id.update({d["image_id"]: d for d in dicts})
    crowds = [d for d in by_id.values() if any(a["iscrowd"] for a in d["annotations"])]
    compressed_rle = [d for d in by_id.values() if d["annotations"] and "counts" in d["annotations"][0]["segmentation"]]
    mapper = LabeledMapper(make())
    for d in [by_id[250], by_id[508], by_id[86], *crowds[:3], *compressed_rle[:3]]:
        with seeded(0):
            result = mapper(d)
        assert result["instances"].gt_masks.tensor.shape[1:] == result["image"].shape[1:]
        assert len(result["instances"]) <= sum(not a["iscrowd"] for a in d["annotations"])
        assert len(result["instances"]) == 0 or result["instances"].gt_masks.tensor.flatten(1).any(dim=1).all()


def test_real_image_of_many_nuclei(shared):
    root = shared / "data" / "dsb2018"
    dicts = load_coco("test_mapped_dsb", str(root / "annotations" / "instances_train.json"), str(root / "train"))
    most = max(dicts, key=lambda d: len(d["annotations"]))
    assert len(most["annotations"]) == 375
    assert len(LabeledMapper(config(INPUT__MIN_SIZE_TRAIN=(256,)))(most)["instances"]) > 350
