"""Imports go one way, and importing does nothing but import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each part of s4m may import from s4m, besides itself.
ALLOWED = {
    "config": set(),
    "ranges": set(),
    "sam": set(),
    "losses": {"sam"},
    "pseudo_labels": {"sam", "losses"},
    "modeling": {"ranges", "sam", "losses", "pseudo_labels"},
    "data": set(),
    "audit": {"data"},
    "evaluation": {"data", "sam", "pseudo_labels"},
    "engine": {"config", "sam", "losses", "pseudo_labels", "modeling", "data", "evaluation"},
    "deploy": {"__init__", "data", "engine"},
    "__init__": {"config", "modeling", "data"},
    "labeling": {"__init__", "ranges", "modeling", "pseudo_labels", "data", "engine"},
    "commands": {"__init__", "ranges", "data", "audit", "engine", "deploy", "labeling"},
    "cli": set(),
    "__main__": {"cli"},
}
PACKAGES = ("s4m", "istd", "d2kit")
OURS = {*PACKAGES, "tools"}
ENTRY_POINTS = {"__init__", "__main__", "cli", "commands"}  # Commands and users start here.


def imports(path):
    """Full names of the modules, or names in modules, that a file imports anywhere in it."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def edges(package):
    """(file, part of s4m or package that it imports) of everything of ours that a package's files import."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imports(path):
            if name.split(".")[0] in OURS:
                yield path.relative_to(ROOT), name


def part(path):
    return path.parts[1].removesuffix(".py")


def test_parts_of_s4m_go_one_way():
    seen, wrong = set(), []
    for path, name in edges("s4m"):
        parts = name.split(".")
        if parts[0] != "s4m":
            continue
        target = "__init__" if len(parts) == 1 or parts[1] not in ALLOWED else parts[1]
        seen.add((part(path), target))
        if target != part(path) and target not in ALLOWED[part(path)]:
            wrong.append(f"{path} imports {name}")
    assert not wrong
    assert {("pseudo_labels", "sam"), ("modeling", "pseudo_labels"), ("engine", "modeling")} <= seen


def test_every_part_is_known():
    names = {part(path.relative_to(ROOT)) for path in (ROOT / "s4m").rglob("*.py")}
    assert names <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("package", "allowed"), [("s4m", {"s4m", "d2kit"}), ("istd", {"istd", "d2kit"}), ("d2kit", {"d2kit"})]
)
def test_packages_stay_apart(package, allowed):
    found = list(edges(package))
    assert found
    assert [f"{path} imports {name}" for path, name in found if name.split(".")[0] not in allowed] == []


def test_nothing_relies_on_tools_as_a_package():
    everything = [edge for package in (*PACKAGES, "tools", "tests") for edge in edges(package)]
    assert [str(path) for path, name in everything if name.split(".")[0] == "tools"] == []


def climbs(expression):
    """Whether an expression starts from `__file__` and names a folder above it."""
    parts = list(ast.walk(expression))
    steps = {part.attr for part in parts if isinstance(part, ast.Attribute)} & {"parent", "parents", "dirname"}
    return bool(steps) and any(isinstance(part, ast.Name) and part.id == "__file__" for part in parts)


def test_packages_do_not_look_for_the_checkout():
    """A file beside a module is package data; whoever walks up from `__file__` leaves the package for the checkout."""
    places = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Attribute, ast.Call)) and climbs(node):
                places.add(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not places, f"these reach beyond their own folder through __file__: {', '.join(sorted(places))}"


def modules(folder):
    """Name -> path of the Python files below a folder; a package is named without `__init__`."""
    files = (path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*.py")))
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def test_no_module_of_the_packages_is_for_the_tools_alone():
    """What only tools import belongs to tools/; what a package, its commands or its `__init__` imports may stay."""
    known = {name: path for package in PACKAGES for name, path in modules(package).items()}
    importers = {name: set() for name in known}
    for folder in (*PACKAGES, "tools"):
        for path, name in edges(folder):
            module = name if name in known else name.rpartition(".")[0]
            if module in known and path != known[module]:
                importers[module].add(path)
    lonely = {}
    for name, paths in importers.items():
        starts = not ENTRY_POINTS.isdisjoint(known[name].with_suffix("").parts)
        if paths and not starts and {path.parts[0] for path in paths} == {"tools"}:
            lonely[str(known[name])] = sorted(map(str, paths))
    assert not lonely, f"only tools import these, so they belong there: {lonely}"


def test_imports_touch_no_network_and_no_gpu():
    code = """
import importlib, pkgutil, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request", "subprocess.Popen", "os.system"):
        raise RuntimeError(f"{event} {arguments}")
import torch, detectron2.engine  # what they do is theirs
sys.addaudithook(refuse)
for name in ("d2kit", "s4m", "istd"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if module.name.endswith("__main__"):
            continue
        importlib.import_module(module.name)
        print(module.name)
assert not torch.cuda.is_initialized()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "s4m.engine.trainer" in done.stdout.split()
