"""What several sittings of one comparison share: a folder that one process works in, under one set of settings."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import portalocker
from detectron2.config import get_cfg

from d2kit.files import atomic_write
from s4m.config import add_s4m_config


def configurations_digest(paths: Iterable[Path]) -> str:
    """12 hex digits that change with any value of the configurations, inherited ones and the code's defaults included.

    Args:
        paths: of yaml files.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        cfg = get_cfg()
        add_s4m_config(cfg)
        cfg.merge_from_file(str(path), allow_unsafe=False)
        digest.update(cfg.dump().encode())
    return digest.hexdigest()[:12]


def check_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Keep what decides the figures of a folder in its `settings.json`, and hold later sittings to it.

    Raises:
        ValueError: the folder holds trainings of other settings.
    """
    path = output / "settings.json"
    if not path.is_file():
        with atomic_write(path, "w") as file:
            json.dump(settings, file, indent=1)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key, value in settings.items() if before.get(key) != value]
    if other:
        raise ValueError(f"'{output}' holds trainings with another {', '.join(other)}: '{path}' says which.")


@contextlib.contextmanager
def sole_process(output: Path) -> Iterator[None]:
    """Work in a folder, which is made when missing, that no other process works in.

    Raises:
        RuntimeError: another process does.
    """
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(portalocker.Lock(output / ".lock", flags=portalocker.LOCK_EX | portalocker.LOCK_NB))
        except portalocker.LockException as error:
            raise RuntimeError(f"another process works in '{output}'.") from error
        yield
