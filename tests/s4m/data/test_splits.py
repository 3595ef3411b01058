import copy
import json
import shutil

import pytest

from s4m.data.coco import validate_coco
from s4m.data.shapes import write_shapes
from s4m.data.splits import check_leakage, make_splits, split_name, write_splits


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("source"), 60, seed=0, image_size=(32, 32))


@pytest.fixture
def data(source):
    return json.loads(source.read_text())


def ids(content):
    return {image["id"] for image in content["images"]}


def split(data, percents=(5, 10, 50), folds=3, seed=0, **options):
    return make_splits(data, percents, folds, seed, allow_missing_classes=True, **options)


def test_fractions_are_nested_and_of_the_right_size(data):
    splits = split(data)
    assert [(s.fold, s.percent) for s in splits] == [(f, p) for f in range(3) for p in (5, 10, 50)]
    for fold in range(3):
        small, middle, large = (ids(s.labeled) for s in splits if s.fold == fold)
        assert small < middle < large and (len(small), len(middle), len(large)) == (3, 6, 30)


def test_labeled_and_rest_make_the_whole(data):
    for s in split(data):
        assert ids(s.labeled) | ids(s.unlabeled) == ids(data) and not ids(s.labeled) & ids(s.unlabeled)
        assert s.unlabeled["annotations"] == [] and s.unlabeled["categories"] == data["categories"]
        expected = [a for a in data["annotations"] if a["image_id"] in ids(s.labeled)]
        assert s.labeled["annotations"] == expected


def test_all_takes_the_labeled_images_too(data):
    assert all(ids(s.unlabeled) == ids(data) for s in split(data, unlabeled="all"))


def test_folds_and_seeds_differ_and_repeat(data):
    first = [ids(s.labeled) for s in split(data, percents=[10])]
    assert len({frozenset(f) for f in first}) == 3
    assert first == [ids(s.labeled) for s in split(data, percents=[10])]
    assert first != [ids(s.labeled) for s in split(data, percents=[10], seed=1)]


def test_other_percentages_and_the_order_of_images_change_nothing(data):
    alone = [ids(s.labeled) for s in split(data, percents=[10])]
    among = [ids(s.labeled) for s in split(data, percents=[50, 10, 5]) if s.percent == 10]
    data["images"].reverse()
    assert alone == among == [ids(s.labeled) for s in split(data, percents=[10])]


def test_tiles_of_an_image_are_labeled_together_and_as_the_image_is(data):
    tiles = {**data, "annotations": [], "images": []}
    for image in data["images"]:
        for _ in range(1 + image["id"] % 4):
            tiles["images"].append({**image, "source_id": image["id"], "id": 1000 + len(tiles["images"])})
    of = {image["id"]: image["source_id"] for image in tiles["images"]}
    for whole, cut in zip(split(data), split(tiles), strict=True):
        assert {of[i] for i in ids(cut.labeled)} == ids(whole.labeled)
        assert {of[i] for i in ids(cut.unlabeled)} == ids(whole.unlabeled)
        assert ids(cut.labeled) | ids(cut.unlabeled) == set(of)


def test_no_image_left_is_refused(data):
    with pytest.raises(ValueError, match="0.5 % of 60 images is no image"):
        split(data, percents=[0.5, 50])


def test_missing_class_is_refused_and_named(data):
    rare = copy.deepcopy(data)
    rare["categories"].append({"id": 9, "name": "rare bird"})
    rare["annotations"][0]["category_id"] = 9
    owner = rare["annotations"][0]["image_id"]
    misses = [s.fold for s in split(rare, percents=[50], folds=8) if owner not in ids(s.labeled)]
    with pytest.raises(ValueError, match=rf"50 % \(fold {misses[0]}\) leaves no image of the class 'rare bird'"):
        make_splits(rare, [50], 8, 0)
    assert len(split(rare, percents=[50], folds=8)) == 8


def test_class_without_any_object_is_no_fault_of_the_fraction(data):
    data["categories"].append({"id": 9, "name": "never seen"})
    assert len(make_splits(data, [50], 1, 0)) == 1


def test_class_with_crowds_only_counts_as_missing(data):
    lone = {"id": 9, "name": "herd"}
    data["categories"].append(lone)
    images = sorted(ids(data))
    data["annotations"] += [
        {**data["annotations"][0], "id": 10_000 + i, "image_id": i, "category_id": 9, "iscrowd": int(i != images[0])}
        for i in images
    ]
    owners = [images[0] in ids(s.labeled) for s in split(data, percents=[50], folds=8)]
    with pytest.raises(ValueError, match=rf"fold {owners.index(False)}.*'herd'"):
        make_splits(data, [50], 8, 0)


@pytest.mark.parametrize("percents", [[0], [100], [-1, 5], []])
def test_percentages_out_of_range_are_refused(data, percents):
    with pytest.raises(ValueError, match="above 0 and below 100"):
        split(data, percents=percents)


def test_nothing_to_split_is_refused():
    with pytest.raises(ValueError, match="no annotations to split"):
        split({"images": []})


def test_files_are_valid_named_and_equal_in_bytes(source, tmp_path):
    written = write_splits(source, [5, 12.5], 2, 7, tmp_path / "a", allow_missing_classes=True)
    again = write_splits(source, [5, 12.5], 2, 7, tmp_path / "b", allow_missing_classes=True)
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]
    assert written[0].name == "annotations_5_fold0.json" and written[-1].name == "annotations_12.5_fold1_unlabeled.json"
    assert split_name(1.0, 3) == "1_fold3" and split_name(0.5, 0, unlabeled=True) == "0.5_fold0_unlabeled"
    for path in written:
        assert validate_coco(path, source.parent / "images")["images"]


def test_default_folder_is_beside_the_json(source):
    (first, _) = write_splits(source, [50], 1, 0, allow_missing_classes=True)
    assert first.parent == source.parent / "splits"


def test_nothing_is_written_when_one_split_fails(source, tmp_path):
    with pytest.raises(ValueError):
        write_splits(source, [50, 0.5], 1, 0, tmp_path / "out", allow_missing_classes=True)
    assert not (tmp_path / "out").exists()


def test_leak_by_name(source, data, tmp_path):
    val = tmp_path / "val.json"
    val.write_text(json.dumps({"images": data["images"][:1]}))
    with pytest.raises(ValueError, match=r"shares 1 image\(s\) with the validation set '.*val\.json'.*000001\.png"):
        check_leakage(source, data, val)
    val.write_text(json.dumps({"images": [{**data["images"][0], "file_name": "other.png"}]}))
    check_leakage(source, data, val)


def test_leak_by_content(source, data, tmp_path):
    images = source.parent / "images"
    other = write_shapes(tmp_path / "val", 3, seed=99, image_size=(32, 32))
    val_images = tmp_path / "val" / "images"
    check_leakage(source, data, other, images, val_images)
    shutil.copy(images / "000007.png", val_images / "000002.png")
    with pytest.raises(ValueError, match=r"shares 1 image\(s\).*000007\.png' is '.*000002\.png"):
        write_splits(
            source, [50], 1, 0, tmp_path / "out", val_jsons=[other], image_root=images, val_image_root=val_images
        )
    assert not (tmp_path / "out").exists()


def test_real_nuclei(shared, tmp_path):
    root = shared / "data" / "dsb2018"
    written = write_splits(
        root / "annotations" / "instances_train.json",
        [5, 10],
        1,
        0,
        tmp_path,
        val_jsons=[root / "annotations" / "instances_val.json"],
        image_root=root / "train",
        val_image_root=root / "val",
    )
    assert [len(json.loads(p.read_text())["images"]) for p in written] == [23, 437, 46, 414]


def test_real_coco_misses_classes(shared, tmp_path):
    json_file = shared / "data" / "coco128" / "annotations" / "instances_train2017.json"
    with pytest.raises(ValueError, match=r"10 % \(fold 0\) leaves no image of the class '"):
        write_splits(json_file, [10], 1, 0, tmp_path)
