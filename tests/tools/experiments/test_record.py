"""Folders of several sittings: one set of settings, one process at a time, seconds of all sittings."""

import json

import pytest

from experiments import record
from experiments.record import add_sitting, claim_folder, configuration_digest, describe_file, outcome


def test_a_folder_keeps_to_its_settings_and_takes_new_ones(tmp_path):
    for settings in ({"percent": 5, "row a": "1"}, {"percent": 5, "row b": "2"}):
        with claim_folder(tmp_path, settings):
            pass
    assert json.loads((tmp_path / "settings.json").read_text()) == {"percent": 5, "row a": "1", "row b": "2"}
    with pytest.raises(SystemExit, match="another percent, row a: '.*settings.json' says which"):
        with claim_folder(tmp_path, {"percent": 10, "row a": "3", "row c": "4"}):
            pass


def test_digest_follows_inherited_values_overlays_options_and_defaults(tmp_path, monkeypatch):
    base, own, overlay = (tmp_path / f"{name}.yaml" for name in ("base", "own", "overlay"))
    base.write_text("SOLVER:\n  MAX_ITER: 5\n")
    own.write_text("_BASE_: base.yaml\nSEED: 1\n")
    overlay.write_text("ISTD:\n  INPUT:\n    CROP: 32\n")
    first = configuration_digest([own], [])
    own.write_text("_BASE_: base.yaml\n\nSEED: 1  # a comment\n")
    assert configuration_digest([own], ["SOLVER.MAX_ITER", "5"]) == first and len(first) == 12
    others = {configuration_digest([own, overlay], []), configuration_digest([own], ["SEED", "2"])}
    base.write_text("SOLVER:\n  MAX_ITER: 6\n")
    others.add(configuration_digest([own], []))
    base.write_text("SOLVER:\n  MAX_ITER: 5\n")

    def other_defaults(cfg, add=record.add_s4m_config):
        add(cfg)
        cfg.S4M.UNSUP_WEIGHT = 3.0

    monkeypatch.setattr(record, "add_s4m_config", other_defaults)
    others.add(configuration_digest([own], []))
    assert len(others - {first}) == 4


def test_data_is_told_by_path_and_content(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    assert describe_file(tmp_path / "a.json") == f"{tmp_path}/a.json (44136fa355b3)"


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with claim_folder(folder, {}):
        with pytest.raises(SystemExit, match=f"Another process works in '{folder}'."):
            with claim_folder(folder, {}):
                pass
    with claim_folder(folder, {}):
        pass


def test_seconds_of_all_sittings_and_figures_of_the_last(tmp_path):
    folder = tmp_path / "a"
    assert outcome(folder) == {"failed": "not run"}
    add_sitting(folder, 2.5)
    assert outcome(folder) == {"failed": "not finished"}
    add_sitting(folder, 3.0, {"AP": 7.0})
    assert outcome(folder) == {"AP": 7.0, "seconds": 5.5}
