"""The page of views shows what training itself makes of its first images."""

import re

import pytest

from s4m.cli import main
from s4m.data.two_stream import build_two_stream_loader
from s4m.engine.browse import build_teacher


def browse(small_options, path, *arguments, semi=True, **more):
    options = [str(item) for item in small_options(semi=semi, **more)]
    name = f"quick/shapes_stage{2 if semi else 1}.yaml"
    return main(["browse", name, *arguments, "--output", str(path), "--opts", *options])


def captions(path):
    return [text.split("\n")[0] for text in re.findall("<figcaption>(.*?)</figcaption>", path.read_text(), re.DOTALL)]


def test_stage_1_has_its_labeled_images_alone(small_options, shapes, tmp_path):
    page = tmp_path / "page.html"
    assert browse(small_options, page, "--number", "3", semi=False) == 0
    assert len(captions(page)) == 3 and all(name.endswith(".png") for name in captions(page))
    assert "Unlabeled images" not in page.read_text()


def test_stage_2_has_each_step_and_is_seeded(small_options, tmp_path):
    pages = [tmp_path / "one" / "browse.html", tmp_path / "two.html", tmp_path / "three.html"]
    for page, seed in zip(pages, (1, 1, 2), strict=True):
        output = page.parent if page.name == "browse.html" else page
        assert browse(small_options, output, "--number", "2", SEED=seed) == 0
    names = captions(pages[0])[2:]
    assert len(names) == 2 * 5
    for start, name in zip(("weak view, ", "", "after SAM, ", "mixed view, ", "strong view"), names, strict=False):
        assert name.startswith(start)
    assert re.fullmatch(r"\d+ pseudo-labels before SAM", names[1])
    one, same, other = (page.read_text() for page in pages)
    assert one == same and one != other


def test_the_images_are_those_of_training(small_cfg):
    cfg = small_cfg("stage2")
    model = build_teacher(cfg, "")
    batch = next(iter(build_two_stream_loader(cfg)))
    targets, record = model.pseudo_label(batch["unlabeled"])
    assert [image.file_name for image in record.images] == [entry["file_name"] for entry in batch["unlabeled"]]
    assert len(record.mixed) == len(targets)
    shapes = [tuple(image.shape) for image in record.mixed]
    assert shapes == [tuple(entry["image"].shape) for entry in targets]
    assert model.training and not model.teacher.training


def test_mistakes_are_one_sentence(small_options, tmp_path, capsys):
    assert browse(small_options, tmp_path, "--checkpoint", str(tmp_path / "none.pth")) == 1
    assert "none.pth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        browse(small_options, tmp_path, "--number", "0")
    assert "--number must be positive" in capsys.readouterr().err
