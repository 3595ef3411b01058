"""Files, folders and what is neither."""

from pathlib import Path

import pytest

from d2kit.sources import find_sources
from d2kit.videos import VideoFrames

KINDS = (("masks", "overlays"), (".png", ".tif"))


@pytest.fixture
def folder(tmp_path) -> Path:
    hidden = ("._b.png", "below/._c.MP4", ".cut/a.png")
    for name in ("b.png", "a.TIF", "a.png", "notes.txt", "below/a.png", "below/c.MP4", *hidden):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "in"


def test_a_folder_in_order_with_unique_names(folder):
    sources, refused = find_sources([folder, folder / "b.png"], folder.parent / "out", *KINDS)
    assert refused == {}
    assert [(source.path.relative_to(folder).as_posix(), source.name, source.is_sequence) for source in sources] == [
        ("a.TIF", "a", False),
        ("a.png", "a_2", False),
        ("b.png", "b", False),
        ("below/a.png", "below/a", False),
        ("below/c.MP4", "below/c", True),
        ("b.png", "b_2", False),
    ]


def test_results_are_not_read_again(folder):
    for name in ("masks/b.png", "overlays/b.png", "overlays/below/c.mp4"):
        path = folder / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "link.png").symlink_to(folder / "out" / "masks" / "b.png")
    (folder / "out" / "mine.png").write_bytes(b"")
    sources, refused = find_sources([folder], folder / "out", *KINDS)
    names = [source.path.relative_to(folder).as_posix() for source in sources]
    assert names == ["a.TIF", "a.png", "b.png", "below/a.png", "below/c.MP4", "out/mine.png"] and refused == {}
    for given in ("masks", "masks/b.png", "overlays/below"):
        with pytest.raises(ValueError, match=f"{given} lies in the results of an earlier run: choose another --output"):
            find_sources([folder / "out" / given], folder / "out", *KINDS)


@pytest.mark.parametrize("table", ["detections.json", "detections.jsonl"])
def test_results_of_other_runs_are_not_read(folder, table):
    images = find_sources([folder], folder.parent / "out", *KINDS)[0]
    for run in (folder, folder / "other"):
        for name in ("masks", "overlays"):
            (run / name).mkdir(parents=True)
            (run / name / "a.png").write_bytes(b"")
        (run / table).write_text("")
    assert find_sources([folder], folder.parent / "out", *KINDS)[0] == images
    given = folder / "other" / "masks"
    assert len(find_sources([given], folder.parent / "out", *KINDS)[0]) == 1  # That is what was asked for.


def test_what_gives_nothing_is_named(folder):
    (folder / "empty").mkdir()
    inputs = [folder / "empty", folder / "notes.txt", folder / "absent.png"]
    sources, refused = find_sources(inputs, folder / "out", *KINDS)
    assert sources == [] and list(refused) == [str(path) for path in inputs]
    assert [reason.split(" ", 1)[1] for reason in refused.values()][1:] == [
        "is neither an image nor a video.",
        "does not exist.",
    ]
    assert "holds no image and no video" in refused[str(folder / "empty")]


def test_a_video_that_is_none(folder):
    with pytest.raises(ValueError, match="c.MP4 cannot be read as a video"):
        VideoFrames(folder / "below" / "c.MP4")
