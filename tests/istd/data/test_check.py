"""The check of data sets: every fault of every set in one pass, before a training starts."""

import shutil

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kit.faults import ERROR
from istd.cli import main
from istd.data import check_facts
from istd.data.check import check_before_training, check_config, check_groups
from istd.engine.trainer import ISTDTrainer


@pytest.fixture
def root(scenes, tmp_path):
    return shutil.copytree(scenes.root, tmp_path / "own")


@pytest.fixture
def cfg(istd_cfg, root):
    def make(name="quick_pal", **more):
        sets = {f"DATASETS__{key}": (f"sirst:{root}:{key.lower()[:5]}.txt",) for key in ("TRAIN", "TEST")}
        sets["DATASETS__VALIDATION"] = (f"sirst:{root}:val.txt",)
        return istd_cfg(name, **{**sets, **more})

    return make


def names(root, split):
    return (root / f"{split}.txt").read_text().split()


def told(all_faults, level):
    return {f"{faults.where}: {fault.headline}": fault for faults in all_faults for fault in faults.of(level)}


def errors_of(all_faults):
    return list(told(all_faults, ERROR).values())


def test_well_kept_data_have_no_errors(cfg):
    faults = check_config(cfg())
    assert errors_of(faults) == []
    check_before_training(cfg())


def test_all_faults_of_all_sets_are_told_at_once(cfg, root, caplog):
    train, test = names(root, "train"), names(root, "test")
    (root / "masks" / f"{train[0]}.png").write_bytes(b"no mask")
    (root / "images" / f"{train[1]}.png").unlink()
    picture = (root / "images" / f"{test[0]}.png").read_bytes()
    (root / "images" / f"{test[0]}.png").write_bytes(picture[: len(picture) // 2])  # The header is whole.
    mask = cv2.imread(str(root / "masks" / f"{test[1]}.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(root / "masks" / f"{test[1]}.png"), 255 - mask)
    faults = check_config(cfg())
    errors = [example for fault in errors_of(faults) for example in fault.examples]
    for name in (train[0], train[1], *test):
        assert any(name in example for example in errors), name
    with pytest.raises(ValueError, match=r"^DATASETS\.TRAIN: .*1 more: the command check lists all"):
        check_before_training(cfg())
    assert all(example in caplog.text for example in errors)


def test_a_trainer_refuses_a_fault_of_the_test_set_before_anything_else(cfg, root):
    (root / "masks" / f"{names(root, 'test')[1]}.png").write_bytes(b"no mask")
    with pytest.raises(ValueError, match=r"^DATASETS\.TEST: .*cannot be read as an image"):
        ISTDTrainer(cfg())


def test_a_set_that_does_not_exist_is_told_with_the_faults_of_others(cfg, root):
    (root / "images" / f"{names(root, 'train')[0]}.png").unlink()
    faults = check_groups({"a": (f"sirst:{root}:train.txt",), "b": (f"sirst:{root}:none.txt",)}, cfg())
    assert list(told(faults, ERROR)) == ["a: images", "b: data sets"]


def test_training_images_in_other_sets_are_told_by_content(cfg, root):
    train, test = names(root, "train"), names(root, "test")
    image = cv2.imread(str(root / "images" / f"{train[2]}.png"), cv2.IMREAD_UNCHANGED)
    for part in ("masks", "masks_centroid"):
        shutil.copy(root / part / f"{train[2]}.png", root / part / "copy.png")
    cv2.imwrite(str(root / "images" / "copy.bmp"), image)
    (root / "test.txt").write_text("\n".join([*test, train[0], "copy"]))
    fault = told(check_config(cfg()), "warning")["DATASETS.TEST: images of DATASETS.TRAIN"]
    assert fault.count == 2 and fault.examples[0].startswith("2 images of DATASETS.TEST are images of DATASETS.TRAIN")
    assert train[0] in fault.examples[0] or "copy" in fault.examples[0]


def test_a_set_that_is_named_by_two_paths_is_told(cfg, root):
    (root.parent / "link").symlink_to(root)
    faults = check_config(cfg(DATASETS__TRAIN=(f"sirst:{root}:train.txt", f"sirst:{root.parent}/link:train.txt")))
    assert told(faults, "warning")["DATASETS.TRAIN: images that are there twice"].count == len(names(root, "train"))


def test_full_supervision_needs_every_mask(cfg, root):
    train = names(root, "train")
    (root / "masks" / f"{train[1]}.png").unlink()
    assert "DATASETS.TRAIN: images without mask" in told(check_config(cfg("quick_full")), "error")
    assert errors_of(check_config(cfg("quick_pal"))) == []


def test_training_by_points_needs_them(cfg, root):
    name = f"sirst:{root}:train.txt:points="
    errors = told(check_config(cfg(DATASETS__TRAIN=(name,))), "error")
    assert errors["DATASETS.TRAIN: images without points"].count == len(names(root, "train"))


def test_a_scored_image_needs_a_mask_or_points(cfg, root):
    name = f"sirst:{root}:test.txt:points=,masks="
    errors = told(check_config(cfg(DATASETS__TEST=(name,))), "error")
    assert errors["DATASETS.TEST: images without mask and points"].count == len(names(root, "test"))


def test_black_masks_beside_points_are_refused(cfg, root):
    for name in names(root, "val"):
        mask = cv2.imread(str(root / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(root / "masks" / f"{name}.png"), 0 * mask)
    assert "all 2 masks are empty" in str(told(check_config(cfg()), "error")["DATASETS.VALIDATION: empty masks"])


def test_points_beside_their_masks_and_images_of_one_value_are_told(cfg, root):
    rows = []
    for name in names(root, "train"):
        mask = cv2.imread(str(root / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        near = cv2.dilate(mask, np.ones((9, 9)))
        y, x = np.argwhere(near == 0)[0]
        rows.append(f"{name},{x},{y}")
    (root / "p.csv").write_text("\n".join(rows))
    cv2.imwrite(str(root / "images" / f"{name}.png"), 0 * mask + 7)
    faults = check_config(cfg("quick_lesps", DATASETS__TRAIN=(f"sirst:{root}:train.txt:points=p.csv",)))
    warnings = told(faults, "warning")
    assert warnings["DATASETS.TRAIN: points beside masks"].count == len(rows)
    assert name in str(warnings["DATASETS.TRAIN: images of one value"])


def test_dark_targets_are_refused_until_the_key_says_so(cfg, root):
    for path in (root / "images").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), 255 - image)
    for scheme in ("quick_pal", "quick_lesps"):
        [error] = errors_of(check_config(cfg(scheme)))
        assert "set ISTD.INPUT.POLARITY to dark" in str(error)
    assert errors_of(check_config(cfg(ISTD__INPUT__POLARITY="dark"))) == []
    assert errors_of(check_config(cfg(ISTD__INPUT__POLARITY="both"))) == []


def test_sets_of_other_sources_are_checked_too(cfg, root):
    records = [{"file_name": str(root / "images" / "none.png"), "image_id": "a", "height": 1, "width": 1, "points": []}]
    DatasetCatalog.register("istd_test_plain", lambda: records)
    try:
        [error] = errors_of(check_groups({"plain": ("istd_test_plain",)}, cfg()))
        assert "none.png" in str(error)
    finally:
        DatasetCatalog.remove("istd_test_plain")
        MetadataCatalog.remove("istd_test_plain")


def test_facts_of_large_sets_are_read_again_only_where_a_file_changed(cfg, root, monkeypatch, tmp_path):
    monkeypatch.setattr(check_facts, "LARGE", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read = []
    original = check_facts.read_infrared
    monkeypatch.setattr(
        check_facts, "read_infrared", lambda path, *args, **more: read.append(path) or original(path, *args, **more)
    )
    first = [faults.lines() for faults in check_config(cfg())]
    assert len(read) == 10
    read.clear()
    assert [faults.lines() for faults in check_config(cfg())] == first and read == []
    changed = root / "images" / f"{names(root, 'train')[0]}.png"
    changed.write_bytes(changed.read_bytes()[:-40])
    [error] = errors_of(check_config(cfg()))
    assert read == [str(changed)] and changed.name in str(error)


def test_the_command_tells_faults_and_its_status(root, capsys):
    sets = [f"sirst:{root}:{split}.txt" for split in ("train", "val")]
    assert main(["check", *sets]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 errors, 0 repaired, ")
    files = ["--config-file", "istd/networks/alcnet.yaml", "--overlay", "istd/schemes/pal.yaml"]
    options = ["DATASETS.TRAIN", f"('{sets[0]}',)", "DATASETS.VALIDATION", f"('{sets[1]}',)", "DATASETS.TEST", "()"]
    assert main(["check", *files, *options]) == 0
    (root / "images" / f"{names(root, 'val')[0]}.png").unlink()
    assert main(["check", *files, *options]) == 1
    assert "DATASETS.VALIDATION:\n  error: images (1)\n" in capsys.readouterr().out
    assert main(["check", sets[1], "ISTD.INPUT.RANGE", "type"]) == 1
    assert capsys.readouterr().out.startswith(f"{sets[1]}:\n  error: images (1)\n")
    with pytest.raises(SystemExit):
        main(["check", "ISTD.INPUT.RANGE", "type"])


def test_the_command_checks_a_set_that_a_file_describes(root, capsys):
    for name in ("train.yaml", "train.json"):
        (root / name).write_text('{"split": "train.txt"}')
        assert main(["check", f"sirst:{root}/{name}"]) == 0
    (root / "wrong.yaml").write_text("split: train\nmask: m")
    assert main(["check", f"sirst:{root}/wrong.yaml"]) == 1
    assert "wrong.yaml' has the unknown key 'mask'" in capsys.readouterr().out


@pytest.mark.parametrize("masks", ["masks", ""])
def test_a_training_set_without_any_point_is_refused(cfg, root, masks):
    (root / "labels").mkdir()
    for name in names(root, "train"):
        (root / "labels" / f"{name}.txt").write_text("")
    faults = check_config(cfg(DATASETS__TRAIN=(f"sirst:{root}:train.txt:points=labels,masks={masks}",)))
    assert [fault.examples for fault in errors_of(faults)] == [["there is no point in any of the 6 training images."]]
    beside = told(faults, "warning").get("DATASETS.TRAIN: masks with targets whose image has no point")
    assert (beside is not None and beside.count == 6) == bool(masks)
