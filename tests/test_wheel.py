"""The wheel holds everything, and trains from another directory by its console command."""

import email
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import d2kit

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("s4m", "istd", "d2kit", "configs", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command, **options):
    """What a command prints; it has to end well, and sees neither this tree nor a GPU."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources: a build leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = ROOT / name, folder / "sources" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    run(*PIP, "wheel", folder / "sources", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Folder of console commands of a fresh environment with the wheel, which sees what is installed here but us."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    (folder / "others").mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in ("s4m", "istd", "d2kit") and "s4m_istd" not in entry.name:
            (folder / "others" / entry.name).symlink_to(entry)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(f"{folder}/others\n")
    commands = folder / "venv" / "bin"
    run(*PIP, "--python", commands / "python", "install", "--no-deps", "--no-index", wheel)
    return commands


def test_it_holds_configurations_weights_types_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: entry for entry in archive.infolist()}
        shipped = {f"d2kit/{path.relative_to(ROOT)}": path for path in (ROOT / "configs").rglob("*.yaml")}
        assert len(shipped) > 50 and {name for name in files if name.endswith(".yaml")} == set(shipped)
        for name, path in shipped.items():
            assert archive.read(name) == path.read_bytes() and stat.S_ISREG(files[name].external_attr >> 16), name
        assert archive.read("s4m/sam/tiny_sam.pth") == (ROOT / "s4m" / "sam" / "tiny_sam.pth").read_bytes()
        assert {"s4m/sam/tiny_sam.json", "s4m/py.typed", "istd/py.typed", "d2kit/py.typed"} <= set(files)
        assert "d2kit/report/page.html" in files
        licences = {Path(name).name for name in files if "dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert {name.split("/")[0] for name in files if "dist-info" not in name} == {"s4m", "istd", "d2kit"}


def test_its_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == d2kit.__version__ and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text().strip()
    required = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert "torch>=2.6" in required
    assert not any(text.startswith(("opencv", "torchvision", "detectron2", "cityscapes")) for text in required)
    assert {"opencv", "opencv-headless", "onnx", "cityscapes"} <= set(metadata.get_all("Provides-Extra"))


def test_it_trains_from_another_directory(installed, small_options, tmp_path):
    where = run(installed / "python", "-c", "import s4m, istd, d2kit; print(s4m.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    options = small_options(semi=False, SOLVER__MAX_ITER=10, DATASETS__TEST=(), OUTPUT_DIR="run")
    run(installed / "s4m", "train", "--config-file", "quick/shapes_stage1.yaml", *options, cwd=tmp_path)
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert '"iteration": 9' in (tmp_path / "run" / "metrics.json").read_text()


def test_its_commands_answer(installed, tmp_path):
    assert f"s4m {d2kit.__version__}\n" == run(installed / "s4m", "--version", cwd=tmp_path)
    assert "detect" in run(installed / "istd", "--help", cwd=tmp_path)
    assert "--kind" in run(installed / "python", "-m", "istd", "points", "--help", cwd=tmp_path)
