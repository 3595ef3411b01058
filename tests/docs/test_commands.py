"""The commands, links, keys and error sentences of README.md and docs/ are true.

Each command of a ```bash block is one of three kinds, and the page shows which:
- without a remark it runs here, on generated data and with options behind it that make it small (`SMALL`);
- with the remark "# needs ..." or "# takes ..." its arguments are parsed by its own parser, its configuration files are
  composed, and the names of its data sets are checked for their form; other programs than this project's are left out;
- `make TARGET` names a target of the Makefile.
"""

import argparse
import ast
import importlib
import json
import logging
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.data.synthetic import write_scenes
from istd.modeling import NETWORK_REGISTRY
from s4m import add_s4m_config
from s4m.data.shapes import write_shapes
from s4m.sam import SEGMENTERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
_LATER = ("docs/audit.md", "docs/deploy.md", "docs/extending.md", "docs/s4m.md")
NEEDS = dict.fromkeys(_LATER, "docs/getting_started.md")
FORMS = r"(coco|voc):[^:]+:[^:]+|folder:[^:]+|sirst:[^:]+:[^:]+(:\w+=[^,]*(,\w+=[^,]*)*)?"
SMALL = {
    "s4m": {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "DATASETS.TEST": "('coco:data/val.json:data/images',)",
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.REFERENCE_BATCH": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "(1,)",
        "SOLVER.AMP.ENABLED": False,
        "TEST.EVAL_PERIOD": 2,
        "S4M.UNLABELED_BATCH": 2,
        "S4M.SAM.NAME": "tiny",
        "S4M.SAM.CHECKPOINT": "",
        "S4M.SD.POINTS": 4,
        "S4M.QUALITY_IMAGES": 2,
    },
    "istd": {
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 4,
        "ISTD.INPUT.CROP": 32,
        "ISTD.LABELS.POOL": "all",
        "ISTD.SCHEDULE.EPOCHS": 1,
        "ISTD.SCHEDULE.EVAL": 1,
        "ISTD.SCHEDULE.WARMUP": 0,
    },
    "lazy_config": {"train.max_iter": 2, "dataloader.batch": 2},
}


class Command(NamedTuple):
    """A command of a page: its words, and the remark behind it or "" where it has none."""

    words: list[str]
    remark: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[Command]:
    """The commands of all bash blocks, in order; lines that end in a backslash go on."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            text, _, remark = line.partition("    # ")
            if text.strip():
                found.append(Command(shlex.split(text), remark))
    return found


def prose(page: str) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)


class Workspace:
    """A folder with the data that the pages name; the commands of a page run in it, once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.done: set[str] = set()
        self._write_coco(folder / "data")
        write_scenes(folder / "my_targets", 16, size=(64, 64), empty_share=0)
        self._write_points(folder / "my_targets")
        for name in ("docs", "tools", "configs"):
            (folder / name).symlink_to(ROOT / name)

    @staticmethod
    def _write_coco(data: Path) -> None:
        images = data / "images"
        for seed, (name, count) in enumerate((("train", 20), ("val", 4), ("more", 6))):
            source = write_shapes(data / name, count, seed, (64, 64), classes=("circle", "square", "star"))
            content = json.loads(source.read_text())
            target = data / "more_images" if name == "more" else images
            target.mkdir(exist_ok=True)
            for image in content["images"]:
                new = f"{name}_{image['file_name']}"
                shutil.move(data / name / "images" / image["file_name"], target / new)
                image["file_name"] = new
            (data / f"{name}.json").write_text(json.dumps(content))

    @staticmethod
    def _write_points(root: Path) -> None:
        rows = [f"{path.stem},{10 + i},{12 + i}" for i, path in enumerate(sorted((root / "images").iterdir()))]
        (root / "points.csv").write_text("\n".join(["image,x,y", *rows]) + "\n")

    def run_page(self, page: str) -> None:
        """Run or check all commands of a page, after those of the page whose outputs it needs."""
        if page in NEEDS:
            self.run_page(NEEDS[page])
        if page not in self.done:
            for command in commands(page):
                print(f"{page}: {shlex.join(command.words)}", flush=True)
                (check if command.remark or command.words[0] == "make" else self.run)(command)
            self.done.add(page)

    def run(self, command: Command) -> None:
        """Run a command here; it has to succeed."""
        program, *arguments = command.words
        if program == "source" or program == "export":
            return
        if program == "python":
            run_python(arguments)
            return
        if arguments[0] == "points":
            output = Path(arguments[arguments.index("--output") + 1])
            shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
        status = importlib.import_module(f"{program}.cli").main([*arguments, *small_options(program, arguments)])
        assert not status, shlex.join(command.words)


def small_options(kind: str, words: list[str]) -> list[str]:
    """KEY VALUE pairs that make a training small, for keys that the words do not give; nothing for other commands.

    The length is always ours: of a key that is given twice the latter counts.
    """
    trains = kind == "lazy_config" or words[0] in ("train", "eval") or words[0].startswith("--config-file")
    given = {word.split("=")[0] for word in words} - {"SOLVER.MAX_ITER", "train.max_iter"}
    missing = {key: value for key, value in SMALL[kind].items() if key not in given}
    if not trains:
        return []
    if kind == "lazy_config":
        return [f"{key}={value}" for key, value in missing.items()]
    return [str(item) for pair in missing.items() for item in pair]


def run_python(arguments: list[str]) -> None:
    """Run `python -c CODE` or `python SCRIPT ...` in this process."""
    if arguments[0] == "-c":
        exec(arguments[1], {})
        return
    script, *words = arguments
    name = Path(script).stem
    kind = {"own_network": "istd", "lazy_config": "lazy_config"}.get(name, "s4m")
    more = small_options(kind, words) if "examples" in script else []
    kept, sys.argv = sys.argv, [script, *words, *more]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    finally:
        sys.argv = kept


def check(command: Command) -> None:
    """Parse the arguments of a command by its own parser, and compose the configuration that it names."""
    program, *arguments = command.words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", read("Makefile"), re.MULTILINE), arguments[0]
    elif program in ("s4m", "istd"):
        module = importlib.import_module(f"{program}.commands.{arguments[0].replace('-', '_')}")
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        check_arguments(parser.parse_args(arguments[1:]))
    elif program == "python" and arguments[0].startswith("tools/"):
        check_arguments(parsed_by_script(arguments))
    else:
        assert program in ("pip", "python", "tensorboard", "source"), f"a test knows no program '{program}'"


class Parsed(Exception):
    """Carries what a script's parser gave, before the script goes on."""


def parsed_by_script(arguments: list[str]) -> argparse.Namespace:
    """What the parser of a script in tools/ makes of its arguments; the script stops there."""
    original = argparse.ArgumentParser.parse_args

    def stop(parser, *args, **kwargs):
        raise Parsed(original(parser, *args, **kwargs))

    kept, sys.argv = sys.argv, arguments
    argparse.ArgumentParser.parse_args = stop
    try:
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    except Parsed as parsed:
        return parsed.args[0]
    finally:
        sys.argv = kept
        argparse.ArgumentParser.parse_args = original
    raise AssertionError(f"{arguments[0]} parsed no arguments")


def check_arguments(args: argparse.Namespace) -> None:
    """The configuration of parsed arguments composes, and each of its data sets is registered or named by its path."""
    options = list(getattr(args, "opts", None) or [])
    file = getattr(args, "config_file", None)
    files = [file, *getattr(args, "overlay", [])] if file and not str(file).startswith(("output/", "RUN/")) else []
    cfg = compose_config(files, options, (add_s4m_config, add_istd_config))
    for key in ("TRAIN", "UNLABELED", "VALIDATION", "TEST"):
        for name in cfg.DATASETS[key]:
            assert name in DatasetCatalog or re.fullmatch(FORMS, name), f"DATASETS.{key}: {name}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A `Workspace`; what its commands register and how they set up loggers is undone after them."""
    names = ("s4m", "istd", "d2kit", "detectron2", "fvcore")
    loggers = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    tables = (META_ARCH_REGISTRY._obj_map, NETWORK_REGISTRY._obj_map, SEGMENTERS)
    contents = [dict(table) for table in tables]
    yield Workspace(tmp_path_factory.mktemp("workspace"))
    for name, (handlers, propagate) in loggers.items():
        logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = handlers, propagate
    for table, content in zip(tables, contents, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.parametrize("page", [page for page in PAGES if "```bash" in read(page)])
def test_the_commands_of_a_page_work(page, workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(workspace.folder / "datasets"))
    workspace.run_page(page)


def test_every_remark_says_what_is_needed_and_many_commands_run_here():
    every = [command for page in PAGES for command in commands(page)]
    for command in every:
        assert not command.remark or re.match("needs |takes ", command.remark), command
    assert sum(not command.remark for command in every) >= 25


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_anchors_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http", "mailto")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page} links to {target}"


def slug(heading: str) -> str:
    """GitHub's and MyST's name for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_readme_is_short():
    assert len(read("README.md").split()) <= 450


@pytest.mark.parametrize("page", PAGES)
def test_keys_in_the_text_exist(page):
    cfg = compose_config([], (), (add_s4m_config, add_istd_config))
    for key in re.findall(r"\b((?:S4M|ISTD|SOLVER|INPUT|MODEL|TEST|DATASETS)(?:\.[A-Z0-9_]+)+)\b", read(page)):
        node = cfg
        for part in key.split("."):
            assert part in node, f"{page} names the key {key}"
            node = node[part]


def test_files_in_the_text_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:s4m|istd|d2kit|tools|configs|docs|tests)/[\w./-]*)`", read(page)):
            places = [ROOT / path, ROOT / "configs" / path]
            assert any(place.exists() for place in places), f"{page} names {path}"


def test_sentences_of_the_faq_stand_in_the_code():
    known = "\n".join(sentences())
    fragments = [line.split("`")[1] for line in read("docs/faq.md").splitlines() if line.startswith("| `")]
    assert len(fragments) > 30
    for fragment in fragments:
        pattern = ".*".join(re.escape(part.strip()) for part in fragment.split("…"))
        assert re.search(pattern, known), fragment


def sentences() -> list[str]:
    """All strings of the product code, one a line; what stands in braces of an f-string is `…`."""
    result = []
    for package in ("s4m", "istd", "d2kit", "tools"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    result.append("".join(parts).replace("\n", " "))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    result.append(node.value.replace("\n", " "))
    return result
