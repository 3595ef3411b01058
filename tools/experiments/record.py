"""Several sittings of one grid share a folder that one process works in, its settings, and the results so far."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import portalocker

from d2kit.config_files import compose_config
from d2kit.files import atomic_write
from istd import add_istd_config
from s4m import add_s4m_config


def configuration_digest(files: Sequence[str], options: Sequence[str]) -> str:
    """Return 12 hex digits that change with any value of a composed configuration, inherited or default as well."""
    cfg = compose_config(files, options, (add_s4m_config, add_istd_config))
    return hashlib.sha256(cfg.dump().encode()).hexdigest()[:12]


def describe_file(path: Path) -> str:
    """Return the path of a file of annotations and 12 hex digits of its content."""
    return f"{path} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"


def write_json(path: Path, content: Any) -> None:
    """Write a json file atomically."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1)


@contextlib.contextmanager
def claim_folder(output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Keep a folder, made when missing, to one process and to one set of settings during the block.

    Its `settings.json` keeps the settings of all sittings, which are everything that decides figures. A key that an
    earlier sitting has as well needs the same value.

    Raises:
        SystemExit: another process works in the folder, or it holds trainings of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / "settings.json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(portalocker.Lock(output / ".lock", fail_when_locked=True))
        except portalocker.LockException:
            raise SystemExit(f"Another process works in '{output}'.") from None
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        other = [key for key, value in settings.items() if earlier.get(key, value) != value]
        if other:
            raise SystemExit(f"'{output}' holds trainings with another {', '.join(other)}: '{path}' says which.")
        write_json(path, {**earlier, **settings})
        yield


def read_result(folder: Path) -> dict[str, Any]:
    """Return a training's "seconds" and, once it is finished, its "figures"; nothing if it never ran."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def add_sitting(folder: Path, seconds: float, figures: Mapping[str, Any] | None = None) -> None:
    """Add the seconds of a sitting to `result.json` in a training's folder; figures say that it is finished."""
    content = {"seconds": read_result(folder).get("seconds", 0.0) + seconds}
    write_json(folder / "result.json", content if figures is None else {**content, "figures": figures})


def outcome(folder: Path) -> dict[str, Any]:
    """Return a training's figures with "seconds" among them, or {"failed": reason} if it is not finished."""
    content = read_result(folder)
    if "figures" in content:
        return {**content["figures"], "seconds": content["seconds"]}
    return {"failed": "not finished" if content else "not run"}
