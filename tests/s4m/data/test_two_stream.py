import itertools
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm

from s4m.config import add_s4m_config
from s4m.data.shapes import write_shapes
from s4m.data.splits import write_splits
from s4m.data.two_stream import build_labeled_sampler, build_two_stream_loader, load_labeled, load_unlabeled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_stream")
    made = write_shapes(folder / "set", 20, seed=0, image_size=(32, 48))
    write_splits(made, [25], 1, 0, folder, allow_missing_classes=True)
    write_shapes(folder / "more", 3, seed=5, image_size=(40, 40))
    return folder


def entry(folder, unlabeled=False):
    return f"coco:{folder}/annotations_25_fold0{'_unlabeled' * unlabeled}.json:{folder}/set/images"


@pytest.fixture
def config(folder):
    def make(unlabeled=None, **options):
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.SEED = 7
        cfg.DATASETS.TRAIN = (entry(folder),)
        cfg.DATASETS.UNLABELED = (entry(folder, True),) if unlabeled is None else unlabeled
        cfg.SOLVER.IMS_PER_BATCH = 2
        cfg.S4M.UNLABELED_BATCH = 4
        cfg.INPUT.MIN_SIZE_TRAIN = (32, 40)
        cfg.DATALOADER.NUM_WORKERS = 0
        for key, value in options.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        return cfg

    return make


def take(loader, count):
    return list(itertools.islice(loader, count))


def summary(batches):
    """What must repeat: which image, its seed and its pixels."""
    return [
        {part: [(d["file_name"], d["seed"], int(d["image"].long().sum())) for d in batch[part]] for part in batch}
        for batch in batches
    ]


def test_batches_hold_both_streams(config):
    for batch in take(build_two_stream_loader(config()), 3):
        assert len(batch["labeled"]) == 2 and len(batch["unlabeled"]) == 4
        assert all("instances" in d for d in batch["labeled"])
        assert all("instances" not in d and "annotations" not in d for d in batch["unlabeled"])
        assert not {d["file_name"] for d in batch["labeled"]} & {d["file_name"] for d in batch["unlabeled"]}


def test_no_unlabeled_set_gives_empty_lists(config):
    batches = take(build_two_stream_loader(config(unlabeled=())), 3)
    assert [len(b["labeled"]) for b in batches] == [2] * 3 and [b["unlabeled"] for b in batches] == [[]] * 3


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
@pytest.mark.parametrize("workers", [0, 3])
def test_same_seed_resumes_exactly_with_any_workers(config, sampler, workers):
    options = {"DATALOADER__SAMPLER_TRAIN": sampler, "DATALOADER__REPEAT_THRESHOLD": 10.0}
    whole = summary(take(build_two_stream_loader(config(**options)), 7))
    resumed = build_two_stream_loader(config(DATALOADER__NUM_WORKERS=workers, **options))
    resumed.set_start(4)
    assert summary(take(resumed, 3)) == whole[4:]
    other = summary(take(build_two_stream_loader(config(SEED=8, **options)), 7))
    assert other != whole


def test_two_processes_share_the_batch_of_one(config, monkeypatch):
    whole = summary(take(build_two_stream_loader(config()), 3))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(summary(take(build_two_stream_loader(config()), 3)))
    for part in ("labeled", "unlabeled"):
        for one, first, second in zip(whole, *parts, strict=True):
            assert sorted(one[part]) == sorted(first[part] + second[part])
            assert len(first[part]) == len(second[part])


@pytest.mark.parametrize(("key", "option"), [("SOLVER.IMS_PER_BATCH", 3), ("S4M.UNLABELED_BATCH", 5)])
def test_batch_that_does_not_divide_names_the_key(config, monkeypatch, key, option):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=f"{key} is {option}, .* 2 process"):
        build_two_stream_loader(config(**{key.replace(".", "__"): option}))


def test_negative_seed_is_drawn_and_logged(config, caplog):
    with caplog.at_level(logging.INFO, logger="s4m.data.two_stream"):
        take(build_two_stream_loader(config(SEED=-1)), 1)
    assert "drawn for this run" in caplog.text


def test_rare_classes_are_repeated(config, folder):
    cfg = config(DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler", DATALOADER__REPEAT_THRESHOLD=10.0)
    dicts = load_labeled((entry(folder),))
    sampler = build_labeled_sampler(cfg, dicts, 0)
    assert isinstance(sampler, RepeatFactorTrainingSampler)
    frequency = {c: sum(any(a["category_id"] == c for a in d["annotations"]) for d in dicts) for c in range(5)}
    factors = torch.tensor(
        [max((10.0 * len(dicts) / frequency[a["category_id"]]) ** 0.5 for a in d["annotations"]) for d in dicts]
    )
    assert torch.allclose(sampler._int_part + sampler._frac_part, factors, atol=1e-4)


def test_unknown_sampler_names_the_key(config):
    with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN must be .*, not 'SomeSampler'"):
        build_two_stream_loader(config(DATALOADER__SAMPLER_TRAIN="SomeSampler"))


def test_whole_training_set_and_a_bare_folder_may_be_unlabeled(config, folder, caplog):
    names = (f"coco:{folder}/set/annotations.json:{folder}/set/images", f"folder:{folder}/more/images")
    loader = build_two_stream_loader(config(unlabeled=names))
    assert len(loader.unlabeled.dataset) == 23
    assert "under another name" not in caplog.text
    assert all("annotations" not in d for d in load_unlabeled(names))
    batch = take(loader, 6)
    assert any(d["source_size"] == (40, 40) for b in batch for d in b["unlabeled"])


def test_labeled_image_under_another_name_is_one_warning(config, folder, tmp_path, caplog):
    labeled = load_labeled((entry(folder),))
    shutil.copy(labeled[0]["file_name"], tmp_path / "copy.png")
    shutil.copy(labeled[1]["file_name"], tmp_path / "second.png")
    shutil.copy(folder / "more" / "images" / "000001.png", tmp_path / "new.png")
    build_two_stream_loader(config(unlabeled=(f"folder:{tmp_path}",)))
    warnings = [r.getMessage() for r in caplog.records if "under another name" in r.getMessage()]
    assert len(warnings) == 1 and warnings[0].startswith("2 unlabeled image(s)") and "copy.png" in warnings[0]


def labeled_set(folder, name, change):
    data = json.loads((folder / "annotations_25_fold0.json").read_text())
    change(data)
    path = folder / name
    path.write_text(json.dumps(data))
    return (f"coco:{path}:{folder}/set/images",)


def keep_one_object(data):
    data["annotations"] = data["annotations"][:1]


def crowds_only(data):
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1


def no_annotation(data):
    data["annotations"] = []


def test_empty_images_are_kept_or_left_out(config, folder):
    names = labeled_set(folder, "one_object.json", keep_one_object)
    cfg = config(DATASETS__TRAIN=names)
    assert len(build_two_stream_loader(cfg).labeled.dataset) == 1
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    loader = build_two_stream_loader(cfg)
    assert len(loader.labeled.dataset) == 5
    assert {len(d["instances"]) for b in take(loader, 5) for d in b["labeled"]} == {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [(crowds_only, "has a labeled object"), (no_annotation, "has no annotations")],
)
def test_labeled_set_without_objects_is_one_error(config, folder, change, message):
    names = labeled_set(folder, f"{change.__name__}.json", change)
    for keep in (True, False):
        with pytest.raises(ValueError, match=f"DATASETS.TRAIN: .*{message}"):
            build_two_stream_loader(config(DATASETS__TRAIN=names, DATALOADER__FILTER_EMPTY_ANNOTATIONS=keep))


def test_no_labeled_set_is_one_error(config):
    with pytest.raises(ValueError, match="DATASETS.TRAIN names no data set"):
        build_two_stream_loader(config(DATASETS__TRAIN=()))


def test_sets_with_other_classes_are_refused(config, folder):
    def rename(data):
        data["categories"][0]["name"] = "disc"

    names = (entry(folder), *labeled_set(folder, "renamed.json", rename))
    with pytest.raises(ValueError, match="differ in their classes"):
        build_two_stream_loader(config(DATASETS__TRAIN=names))


def test_absent_images_are_named_when_built(config, tmp_path):
    DatasetCatalog.register(
        "test_two_stream_gone", lambda: [{"file_name": str(tmp_path / "gone.png"), "image_id": 1, "annotations": []}]
    )
    with pytest.raises(FileNotFoundError, match=r"DATASETS.UNLABELED: .*the image '.*gone\.png' does not exist"):
        build_two_stream_loader(config(unlabeled=("test_two_stream_gone",)))


def test_torn_images_are_told_before_training(config, folder, tmp_path, caplog):
    whole = (folder / "more" / "images" / "000001.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:1500])
    cfg = config(unlabeled=(f"folder:{tmp_path}",))
    with pytest.raises(ValueError, match=r"DATASETS.UNLABELED: .*torn\.png' is truncated or damaged"):
        build_two_stream_loader(cfg)
    (tmp_path / "whole.png").write_bytes(whole)
    assert len(build_two_stream_loader(cfg).unlabeled.dataset) == 1
    assert "left out: 1, for example image" in caplog.text and "torn.png" in caplog.text
    cfg.INPUT.ON_BAD_IMAGE = "stop"
    with pytest.raises(ValueError, match=r"torn\.png' is truncated or damaged"):
        build_two_stream_loader(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_torn_within_is_skipped_or_ends_the_training(config, folder, tmp_path, workers):
    whole = bytearray((folder / "more" / "images" / "000001.png").read_bytes())
    (tmp_path / "whole.png").write_bytes(whole)
    whole[500:1500] = bytes(1000)
    (tmp_path / "damaged.png").write_bytes(whole)
    cfg = config(unlabeled=(f"folder:{tmp_path}",), DATALOADER__NUM_WORKERS=workers)
    loaded = {Path(d["file_name"]).name for b in take(build_two_stream_loader(cfg), 3) for d in b["unlabeled"]}
    assert loaded == {"whole.png"}
    cfg.INPUT.ON_BAD_IMAGE = "stop"
    with pytest.raises(ValueError, match=r"damaged\.png' is truncated or damaged"):
        take(build_two_stream_loader(cfg), 3)


def test_real_coco_with_crowds_empty_and_unlabeled_images(shared, config):
    root = shared / "data"
    cfg = config(
        DATASETS__TRAIN=(
            f"coco:{root}/coco128/annotations/instances_train2017.json:{root}/coco128/train2017",
            f"coco:{root}/coco_mini/annotations/instances_train2017.json:{root}/coco_mini/train2017",
        ),
        unlabeled=(
            f"coco:{root}/coco128/annotations/image_info_unlabeled2017.json:{root}/coco128/unlabeled2017",
            f"folder:{root}/voc_mini/VOCdevkit/VOC2012/JPEGImages",
        ),
        INPUT__LSJ__ENABLED=True,
        INPUT__LSJ__SIZE=128,
        DATALOADER__FILTER_EMPTY_ANNOTATIONS=False,
    )
    loader = build_two_stream_loader(cfg)
    assert len(loader.labeled.dataset) == 288 and len(loader.unlabeled.dataset) == 28 + 247
    for batch in take(loader, 2):
        assert all(d["image"].shape == (3, 128, 128) for part in batch.values() for d in part)
