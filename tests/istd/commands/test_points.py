import cv2
import numpy as np
import pytest

from d2kit.commands import run_command
from istd.commands import points as command
from istd.data.points import PointSource


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, centers in (("a_pixels0", [(10, 12)]), ("b", []), ("c", [(5, 5), (30, 20)])):
        mask = np.zeros((40, 50), np.uint8)
        for center in centers:
            cv2.circle(mask, center, 4, 255, -1)
        cv2.imwrite(str(folder / f"{name}.png"), mask)
    return folder


@pytest.mark.parametrize("output", ["points", "points.csv"])
def test_centroids(masks, output, capsys):
    path = masks.parent / output
    assert run_command(command, [str(masks), "--output", str(path)]) == 0
    assert "3 points of 3 images" in capsys.readouterr().out
    points = PointSource(path)
    assert points("a", 40, 50) == [[10, 12]] and points("b", 40, 50) == []
    assert points("c", 40, 50) == [[5, 5], [30, 20]]


def test_coarse_points_follow_the_seed(masks):
    found = []
    for index, seed in enumerate((0, 0, 1, 2, 3)):
        path = masks.parent / f"{index}.csv"
        assert run_command(command, [str(masks), "--output", str(path), "--kind", "coarse", "--seed", str(seed)]) == 0
        found.append(path.read_text())
    assert found[0] == found[1] and len(set(found)) > 1


def test_nothing_is_written_over_unless_told(masks, capsys):
    before = {path.name: path.read_bytes() for path in masks.iterdir()}
    for extra in ([], ["--overwrite"]):
        assert run_command(command, [str(masks), "--output", str(masks), *extra]) == 1
    for output in (masks / "points", masks.parent):
        assert run_command(command, [str(masks), "--output", str(output), "--overwrite"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "exists: choose another output" in errors[0] and all("mix with the inputs" in line for line in errors[1:])
    assert {path.name: path.read_bytes() for path in masks.iterdir()} == before
    output = masks.parent / "p.csv"
    output.write_text("mine")
    assert run_command(command, [str(masks), "--output", str(output)]) == 1 and output.read_text() == "mine"
    assert run_command(command, [str(masks), "--output", str(output), "--overwrite"]) == 0
    assert output.read_text().startswith("image,x,y")


def test_mistakes_are_one_sentence(tmp_path, capsys):
    assert run_command(command, [str(tmp_path / "none"), "--output", str(tmp_path / "p")]) == 1
    assert "none is not a folder of masks" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_command(command, [str(tmp_path / "empty"), "--output", str(tmp_path / "p")]) == 1
    assert "empty holds no masks" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    assert run_command(command, [str(tmp_path / "bad"), "--output", str(tmp_path / "p.csv")]) == 1
    assert "a.png cannot be read as an image" in capsys.readouterr().err and not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("output", ["points", "points.csv"])
def test_masks_of_sequences_keep_their_folders(masks, output):
    for sequence in ("s1", "s2"):
        (masks / sequence).mkdir()
    (masks / "b.png").rename(masks / "s1" / "0000.png")
    (masks / "c.png").rename(masks / "s2" / "0000.png")
    path = masks.parent / output
    assert run_command(command, [str(masks), "--output", str(path)]) == 0
    points = PointSource(path)
    assert points("s1/0000", 40, 50) == [] and points("s2/0000", 40, 50) == [[5, 5], [30, 20]]
