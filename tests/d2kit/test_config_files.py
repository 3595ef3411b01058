"""Configuration files are found by name from any directory, and several compose in order."""

from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from d2kit.config_files import compose_config, config_folder, find_config


def add_test_keys(cfg: CfgNode) -> None:
    """Three keys with defaults, which no shipped file sets."""
    cfg.TEST_KEYS = CfgNode({"FIRST": 0, "SECOND": 0, "THIRD": 0})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def values(cfg: CfgNode) -> tuple[int, int, int]:
    return cfg.TEST_KEYS.FIRST, cfg.TEST_KEYS.SECOND, cfg.TEST_KEYS.THIRD


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_holds_the_shipped_files():
    assert (config_folder() / "istd" / "Base-ISTD.yaml").is_file()


@pytest.mark.parametrize("name", ["quick/shapes_stage1.yaml", "configs/quick/shapes_stage1.yaml"])
def test_shipped_file_is_found_by_name_from_any_directory(name, elsewhere):
    assert Path(find_config(name)) == config_folder() / "quick" / "shapes_stage1.yaml"
    assert Path(find_config(Path(name))) == config_folder() / "quick" / "shapes_stage1.yaml"


@pytest.mark.parametrize("name", ["quick/shapes_stage1.yaml", "configs/quick/shapes_stage1.yaml", "own.yaml"])
def test_existing_file_comes_before_the_shipped_one(name, elsewhere):
    own = write(elsewhere / name, "VERSION: 2\n")
    assert Path(find_config(name)).resolve() == own.resolve()
    assert find_config(own) == str(own)


@pytest.mark.parametrize("name", ["quick/shapes_stage3.yaml", "configs/none.yaml", "quick", "/none/file.yaml"])
def test_unknown_file_is_named_in_one_sentence(name, elsewhere):
    with pytest.raises(FileNotFoundError) as error:
        find_config(name)
    sentence = f"the configuration file '{name}' does not exist, neither here nor among the shipped ones."
    assert str(error.value) == sentence


def add_float_keys(cfg: CfgNode) -> None:
    cfg.TEST_KEYS = CfgNode({"RATE": 0.5, "COUNT": 2, "NAMES": ("a",)})


def test_an_integer_stands_for_a_float(tmp_path):
    file = write(tmp_path / "a.yaml", "TEST_KEYS: {RATE: 3, COUNT: 4}\nSOLVER: {BASE_LR: 1}\nVERSION: 2\n")
    cfg = compose_config([file], ["SOLVER.GAMMA", "-2"], [add_float_keys])
    values = (cfg.TEST_KEYS.RATE, cfg.TEST_KEYS.COUNT, cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA)
    assert values == (3.0, 4, 1.0, -2.0)
    assert [type(value) for value in values] == [float, int, float, float]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("TEST_KEYS.COUNT", "1.5", "TEST_KEYS.COUNT must be of the type int, such as 2, not 1.5 of the type float."),
        ("TEST_KEYS.RATE", "much", "TEST_KEYS.RATE must be of the type float, such as 0.5, not much of the type str."),
        (
            "TEST_KEYS.NAMES",
            "('b')",
            "TEST_KEYS.NAMES must be of the type tuple, such as ('a',), not b of the type str; one name needs a comma "
            "behind it: ('b',).",
        ),
    ],
)
def test_a_wrong_type_is_told_in_a_sentence_that_begins_with_the_key(key, value, sentence, tmp_path):
    with pytest.raises(ValueError) as error:
        compose_config([], [key, value], [add_float_keys])
    assert str(error.value) == sentence
    *groups, name = key.split(".")
    file = write(tmp_path / "a.yaml", f"{groups[0]}: {{{name}: \"{value}\"}}\nVERSION: 2\n")
    with pytest.raises(ValueError) as error:
        compose_config([file], add_keys=[add_float_keys])
    assert str(error.value) == sentence


def test_later_files_and_then_options_override(tmp_path):
    first = write(tmp_path / "first.yaml", "TEST_KEYS: {FIRST: 1, SECOND: 1, THIRD: 1}\nVERSION: 2\n")
    second = write(tmp_path / "second.yaml", "TEST_KEYS: {SECOND: 2, THIRD: 2}\nVERSION: 2\n")
    assert values(compose_config([], add_keys=[add_test_keys])) == (0, 0, 0)
    assert values(compose_config([first, second], add_keys=[add_test_keys])) == (1, 2, 2)
    assert values(compose_config([second, first], add_keys=[add_test_keys])) == (1, 1, 1)
    options = ("TEST_KEYS.THIRD", "3")
    assert values(compose_config([first, second], options, [add_test_keys])) == (1, 2, 3)


def test_each_file_takes_values_from_its_own_base(tmp_path):
    write(tmp_path / "bases" / "base.yaml", "TEST_KEYS: {FIRST: 1, SECOND: 1}\nVERSION: 2\n")
    write(tmp_path / "bases" / "other.yaml", "TEST_KEYS: {SECOND: 2, THIRD: 2}\nVERSION: 2\n")
    first = write(tmp_path / "runs" / "first.yaml", "_BASE_: ../bases/base.yaml\nTEST_KEYS: {SECOND: 5}\n")
    second = write(tmp_path / "runs" / "second.yaml", "_BASE_: ['../bases/base.yaml', '../bases/other.yaml']\n")
    assert values(compose_config([first], add_keys=[add_test_keys])) == (1, 5, 0)
    assert values(compose_config([second], add_keys=[add_test_keys])) == (1, 2, 2)
    assert values(compose_config([second, first], add_keys=[add_test_keys])) == (1, 5, 2)


def test_configuration_is_complete_and_reloads_to_the_same_values(tmp_path):
    overlay = write(tmp_path / "overlay.yaml", "TEST_KEYS: {FIRST: 7}\nVERSION: 2\n")
    cfg = compose_config([overlay], ("SOLVER.STEPS", "(1, 2)"), [add_test_keys])
    assert not cfg.is_frozen()
    written = write(tmp_path / "output" / "config.yaml", cfg.dump())
    reloaded = compose_config([written], add_keys=[add_test_keys])
    assert yaml.safe_load(reloaded.dump()) == yaml.safe_load(cfg.dump())


def test_unknown_key_in_a_file_is_refused(tmp_path):
    with pytest.raises(KeyError, match="TEST_KEYS.FOURTH"):
        compose_config([write(tmp_path / "a.yaml", "TEST_KEYS: {FOURTH: 4}\nVERSION: 2\n")], add_keys=[add_test_keys])


def test_python_tags_in_a_file_do_not_run(tmp_path):
    unsafe = write(tmp_path / "a.yaml", "OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(Exception, match="python/object/apply"):
        compose_config([unsafe])
