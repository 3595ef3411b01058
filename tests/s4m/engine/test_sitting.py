"""Folders of several sittings: one set of settings, one process at a time."""

import json
import subprocess
import sys

import pytest

from s4m import add_s4m_config
from s4m.engine.sitting import check_settings, configurations_digest, sole_process


def test_a_folder_keeps_to_its_settings(tmp_path):
    check_settings(tmp_path, {"percent": 5, "options": ""})
    check_settings(tmp_path, {"percent": 5, "options": ""})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"percent": 5, "options": ""}
    with pytest.raises(ValueError, match="another percent"):
        check_settings(tmp_path, {"percent": 10, "options": ""})


def test_digest_follows_inherited_values_and_defaults(tmp_path, monkeypatch):
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text("SOLVER:\n  MAX_ITER: 5\n")
    own.write_text("_BASE_: base.yaml\nSEED: 1\n")
    first = configurations_digest([own])
    assert first == configurations_digest([own]) and len(first) == 12
    own.write_text("_BASE_: base.yaml\n\nSEED: 1  # a comment\n")
    assert configurations_digest([own]) == first
    base.write_text("SOLVER:\n  MAX_ITER: 6\n")
    assert configurations_digest([own]) != first
    base.write_text("SOLVER:\n  MAX_ITER: 5\n")

    def other_defaults(cfg, add=add_s4m_config):
        add(cfg)
        cfg.S4M.UNSUP_WEIGHT = 3.0

    monkeypatch.setattr("s4m.engine.sitting.add_s4m_config", other_defaults)
    assert configurations_digest([own]) != first


def test_one_process_at_a_time(tmp_path):
    imports = "import sys, pathlib; from s4m.engine.sitting import sole_process"
    code = f"{imports}\nwith sole_process(pathlib.Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    with sole_process(tmp_path / "new"):
        second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1 and f"RuntimeError: another process works in '{tmp_path / 'new'}'." in second.stderr
    assert subprocess.run(command).returncode == 0
