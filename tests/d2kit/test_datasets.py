"""Names by path are registered once, paths are looked up, and errors name what is wrong."""

import pytest
from detectron2.data import DatasetCatalog

from d2kit.datasets import Form, errors_name, locate, resolve


@pytest.fixture
def forms():
    """One form, `list:A,B`, whose data sets are the letters; what it registers is removed again."""
    registered = []

    def register(name, letters):
        registered.append(name)
        DatasetCatalog.register(name, lambda: letters.split(","))

    yield (Form("list:A,B", "list:(.+)", register),)
    for name in registered:
        DatasetCatalog.remove(name)


def test_a_name_of_a_form_is_registered_once(forms):
    names = ("list:x,y", "coco_2017_val")
    assert resolve(names, forms) == resolve(iter(names), forms) == names
    assert DatasetCatalog.get("list:x,y") == ["x", "y"]


def test_other_names_are_refused_with_the_forms(forms):
    with pytest.raises(ValueError, match="'list:' is not registered; name a registered one, or one by.*'list:A,B'"):
        resolve(["list:"], forms)


def test_a_path_from_here_comes_before_the_one_under_detectron2_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "there"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "there" / "set").mkdir(parents=True)
    assert locate("set", "a set") == str(tmp_path / "there" / "set")
    (here / "set").mkdir()
    assert locate("set", "a set") == "set"
    with pytest.raises(FileNotFoundError, match="data set 'a set': other and .*there/other does not exist"):
        locate("other", "a set")
    with pytest.raises(FileNotFoundError, match="'a set': /none does not exist"):
        locate("/none", "a set")


@pytest.mark.parametrize("kind", [FileNotFoundError, ValueError])
def test_errors_name_the_key(kind):
    with pytest.raises(kind, match="^DATASETS.TRAIN: it is wrong$"), errors_name("DATASETS.TRAIN"):
        raise kind("it is wrong")
