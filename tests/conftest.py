"""Fixtures that every test folder shares."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# A Mask R-CNN of the configured structure whose step on 64 px images takes a fraction of a second.
SMALL = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.FPN.NORM": "GN",
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.CONV_DIMS": [32],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 2,
    "S4M.UNLABELED_BATCH": 4,
    "S4M.SD.POINTS": 4,
    "S4M.TEACHER.WEIGHTS": "",
    "S4M.STRONG.LABELED": False,
    "S4M.QUALITY_IMAGES": 2,
    "S4M.LOG_PERIOD": 2,
    # A network that has learned nothing yet gives each class about the same score: many pseudo-labels.
    "S4M.SELECTION.SCORE": 0.05,
    "S4M.CALIBRATION.LOW": 0.05,
    "S4M.CALIBRATION.BOUNDS": (0.05, 0.9),
    "S4M.CALIBRATION.FLOOR": 0.0,
}


SWITCHES = ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING")  # of stage 2; without them it is a mean teacher
STAGE1, STAGE2 = ["quick/shapes_stage1.yaml"], ["quick/shapes_stage2.yaml"]
MASK2FORMER, VIT = "quick/overlays/mask2former_{}.yaml", "quick/overlays/vit.yaml"
SUPERVISED = ["S4M.SD.ENABLED", False]
# Files and options of the runs on synthetic shapes that tests name.
RUNS = {
    "stage1": (STAGE1, []),
    "supervised": (STAGE1, SUPERVISED),
    "stage2": (STAGE2, []),
    "mean_teacher": (STAGE2, [item for name in SWITCHES for item in (f"S4M.{name}.ENABLED", False)]),
    "mask2former_stage1": ([*STAGE1, MASK2FORMER.format("stage1")], []),
    "mask2former_supervised": ([*STAGE1, MASK2FORMER.format("stage1")], SUPERVISED),
    "mask2former_stage2": ([*STAGE2, MASK2FORMER.format("stage2")], []),
    "vit_supervised": ([*STAGE1, VIT], SUPERVISED),
    "vit_mask2former_supervised": (
        [*STAGE1, MASK2FORMER.format("stage1"), VIT, "quick/overlays/vit_mask2former.yaml"],
        SUPERVISED,
    ),
}


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """Two threads an operation, or what OMP_NUM_THREADS says."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real `data/` and `weights/`, named by the environment variable S4M_TEST_DATA."""
    folder = os.environ.get("S4M_TEST_DATA", "")
    if not folder:
        pytest.skip("S4M_TEST_DATA is not set: tests on real data need it")
    assert Path(folder, "data").is_dir(), f"S4M_TEST_DATA={folder} holds no folder 'data'"
    return Path(folder)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> SimpleNamespace:
    """Names of small synthetic sets of 64 px images: `labeled` (6), `unlabeled` (6), `test` (3)."""
    from s4m.data.shapes import write_shapes
    from s4m.data.splits import split_name, write_splits

    folder = tmp_path_factory.mktemp("shapes")
    train = write_shapes(folder / "train", 12, seed=0, image_size=(64, 64))
    test = write_shapes(folder / "val", 3, seed=1, image_size=(64, 64))
    write_splits(train, [50], folds=1, seed=0, output=folder, allow_missing_classes=True)
    labeled, unlabeled = (folder / f"annotations_{split_name(50, 0, u)}.json" for u in (False, True))
    return SimpleNamespace(
        labeled=f"coco:{labeled}:{folder}/train/images",
        unlabeled=f"coco:{unlabeled}:{folder}/train/images",
        test=f"coco:{test}:{folder}/val/images",
    )


def _write_voc_image(voc: Path, name: str, number: int, objects: dict[int, tuple], annotated: bool) -> None:
    """A JPEG of 40 x 48 and, if annotated, VOC's two PNGs: rectangles (class, top, left, bottom, right) by id."""
    noise = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(voc / "JPEGImages" / f"{name}.jpg")
    ids, classes = np.zeros((2, 40, 48), np.uint8)
    for key, (kind, top, left, bottom, right) in objects.items():
        ids[top:bottom, left:right], classes[top:bottom, left:right] = 255, 255  # VOC's border of one pixel
        ids[top + 1 : bottom - 1, left + 1 : right - 1] = key
        classes[top + 1 : bottom - 1, left + 1 : right - 1] = kind
    for folder, indices in (("SegmentationObject", ids), ("SegmentationClass", classes)) if annotated else ():
        picture = Image.fromarray(indices)
        picture.putpalette(bytes(range(256)) * 3)
        picture.save(voc / folder / f"{name}.png")


@pytest.fixture(scope="session")
def voc_tree(tmp_path_factory) -> SimpleNamespace:
    """`voc` and `sbd`: both data sets in their real layout, with images of 40 x 48.

    VOC's train has 2007_000001 to 3, val 4 and 5 (5 has no object); objects 1 (person) and 4 (car) lie inside the
    rectangles (2, 3, 20, 19) and (10, 22, 38, 46) without a border of one pixel. SBD's train has 2008_000001 to 4 and
    2007_000001, its val 2008_000005 and 2007_000004; objects 1 (bus) and 2 (dog), without a border.
    """
    root = tmp_path_factory.mktemp("voc_tree")
    voc, sbd = root / "VOC2012", root / "sbd"
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    (sbd / "inst").mkdir(parents=True)
    own, more = [f"2007_00000{i}" for i in range(1, 6)], [f"2008_00000{i}" for i in range(1, 6)]
    for number, name in enumerate(own + more):
        objects = {} if name == own[4] else {1: (15, 2, 3, 20, 19), 4: (7, 10, 22, 38, 46)}
        _write_voc_image(voc, name, number, objects, annotated=name in own)
    for name in (own[0], own[3], *more):
        ids = np.zeros((40, 48), np.uint8)
        ids[4:24, 5:25], ids[24:36, 8:44] = 1, 2
        truth = {"Segmentation": ids, "Categories": np.array([[6], [12]], np.uint8)}
        scipy.io.savemat(sbd / "inst" / f"{name}.mat", {"GTinst": truth})
    lists = voc / "ImageSets" / "Segmentation"
    for path, names in (
        (lists / "train.txt", own[:3]),
        (lists / "val.txt", own[3:]),
        (lists / "trainval.txt", own),
        (lists / "more.txt", more[:2]),
        (sbd / "train.txt", [*more[:4], own[0]]),
        (sbd / "val.txt", [more[4], own[3]]),
    ):
        path.write_text("\n".join(names) + "\n")
    return SimpleNamespace(voc=voc, sbd=sbd)


def _write_cityscapes_image(root: Path, split: str, city: str, number: int, objects: list[tuple[str, list]]) -> None:
    """An image of 64 x 128 with its polygons, instanceIds and labelIds, drawn by cityscapesscripts itself."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    name = f"{city}_{number:06d}_000019"
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / split / city).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
    truth = root / "gtFine" / split / city / f"{name}_gtFine_polygons.json"
    polygons = [{"label": label, "polygon": corners} for label, corners in objects]
    truth.write_text(json.dumps({"imgHeight": 64, "imgWidth": 128, "objects": polygons}))
    annotation = Annotation()
    annotation.fromJsonFile(str(truth))
    instances = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
    Image.fromarray(instances).save(truth.with_name(f"{name}_gtFine_instanceIds.png"))
    createLabelImage(annotation, "ids").save(truth.with_name(f"{name}_gtFine_labelIds.png"))


@pytest.fixture(scope="session")
def cityscapes_tree(tmp_path_factory) -> Path:
    """Folder that holds `cityscapes` in the real layout: ten training images of two cities, two for validation.

    Each has two cars, one of them partly behind a person, a group of cars, road and the void "ego vehicle", but the
    second image of val has no instance.
    """
    pytest.importorskip("cityscapesscripts")
    root = tmp_path_factory.mktemp("cityscapes_tree")

    def box(left, top, right, bottom):
        return [[left, top], [right, top], [right, bottom], [left, bottom]]

    scene = [("road", box(0, 0, 127, 63)), ("car", box(5, 10, 40, 30)), ("car", box(60, 10, 90, 40))]
    scene += [("person", box(80, 5, 95, 45)), ("cargroup", box(100, 10, 120, 30)), ("ego vehicle", box(0, 56, 127, 63))]
    for number in range(10):
        _write_cityscapes_image(root / "cityscapes", "train", ("aachen", "bochum")[number % 2], number, scene)
    _write_cityscapes_image(root / "cityscapes", "val", "munster", 20, scene)
    _write_cityscapes_image(root / "cityscapes", "val", "munster", 21, scene[:1])
    return root


@pytest.fixture(scope="session")
def small_options(shapes):
    """Function (**more) -> the options KEY VALUE ... that make any configuration here small, on the shapes.

    `semi` says whether there are unlabeled images; the keys of `more` have `__` for the point.
    """

    def make(*, semi: bool, **more) -> list:
        options = {**SMALL, "DATASETS.TRAIN": (shapes.labeled,), "DATASETS.TEST": (shapes.test,)}
        options["DATASETS.UNLABELED"] = (shapes.unlabeled,) if semi else ()
        options.update({key.replace("__", "."): value for key, value in more.items()})
        return [item for pair in options.items() for item in pair]

    return make


@pytest.fixture(scope="session")
def run_arguments():
    """Function (name in RUNS) -> the arguments of tools/train_net.py that name its files, and its options."""

    def make(name: str) -> tuple[list[str], list]:
        (first, *overlays), options = RUNS[name]
        return ["--config-file", first, *(item for file in overlays for item in ("--overlay", file))], options

    return make


@pytest.fixture(scope="session")
def small_cfg(small_options):
    """Function (name in RUNS or shipped files, **more) -> a small unfrozen configuration on the shapes."""
    from d2kit.config_files import compose_config
    from s4m import add_s4m_config
    from s4m.data.datasets_by_path import resolve_config_datasets

    def make(name="stage2", *, semi: bool = True, **more):
        files, options = ([*name], []) if isinstance(name, (list, tuple)) else RUNS.get(name, ([name], []))
        cfg = compose_config(files, [*options, *small_options(semi=semi, **more)], [add_s4m_config])
        resolve_config_datasets(cfg)
        return cfg

    return make


@pytest.fixture(scope="session")
def tiny_mask2former():
    """Options of `small_cfg` for a Mask2Former whose step on 64 px images takes a fraction of a second."""
    sizes = {"HIDDEN": 32, "QUERIES": 10, "POINTS": 64, "ENCODER_LAYERS": 1, "DECODER_LAYERS": 1}
    return {f"MODEL__MASK2FORMER__{key}": value for key, value in sizes.items()}


@pytest.fixture(scope="session")
def run_python():
    """Function (script or -c, arguments, ...) that starts a Python process of its own in the project's folder.

    The process sees no GPU and runs in one thread an operation; its output goes to the file `log`. `wait=False` gives
    the process, else it has to end well.
    """

    def run(*arguments, log: Path, wait: bool = True, **environment):
        own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        env = {**os.environ, **own, **environment}
        with open(log, "a", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
            )
        if wait:
            assert process.wait(timeout=300) == 0, log.read_text(encoding="utf-8")[-3000:]
        return process

    return run


BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


OWN = ("file:", "data:", "blob:")  # what a page that lies on the disk may load


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; without one the tests are skipped or, where S4M_TEST_BROWSER is set, fail."""
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        missing = "chromium and playwright are not installed: tests of pages need both"
        (pytest.fail if os.environ.get("S4M_TEST_BROWSER") else pytest.skip)(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Function (folder, **options of a context) -> its index.html in a browser of its own, without old decisions.

    Errors of the page and requests that leave the disk fail the test at its end.
    """
    wrong = []
    contexts = []

    def watch(page):
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: None if request.url.startswith(OWN) else wrong.append(request.url))

    def make(folder, **options):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1440, "height": 900}} | options))
        page = contexts[-1].new_page()
        watch(page)
        page.goto((Path(folder) / "index.html").as_uri())
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong
