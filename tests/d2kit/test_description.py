"""A small file describes a data set; each mistake in it is one sentence that names the file and the key."""

import json

import pytest

from d2kit.description import BASE, Key, read_description

KEYS = {
    BASE: Key("folder"),
    "images": Key("folder", required=True),
    "list": Key("file", suffix=".txt"),
    "points": Key("path", may_be_empty=True),
    "unit": Key(("pixels", "percent")),
    "classes": Key("names"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a set: 1/my images", "C:/sets/images"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a set: 1" / "train.txt").touch()
    (tmp_path / "sets\\odd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def read(folder, content, name="my.yaml"):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return read_description(folder / name, KEYS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("'a set: 1/my images'", "a set: 1/my images"),
        ("~/a set/../a set; 1", None),
        ("C:\\sets\\images", "C:/sets/images"),
        ("'C:/sets/images'", "C:/sets/images"),
        ('"C:\\\\sets\\\\images"', "C:/sets/images"),
        (".\\C:\\sets\\images\\", "C:/sets/images"),
        ("~/C:/sets", "C:/sets"),
        ("sets\\odd", "sets\\odd"),  # Here the backslash is a part of the name.
    ],
)
def test_paths_of_any_system(folder, written, meant):
    if meant is None:
        with pytest.raises(FileNotFoundError, match="my.yaml': images '.*a set; 1' does not exist"):
            read(folder, f"images: {written}")
    else:
        assert read(folder, f"images: {written}") == {"images": str(folder / meant)}


def test_paths_start_in_the_folder_that_the_file_names(folder):
    content = {"images": "my images", "list": "train", "folder": "a set: 1"}
    root = folder / "a set: 1"
    expected = {"images": str(root / "my images"), "list": str(root / "train.txt"), "folder": str(root)}
    assert read(folder, json.dumps(content)) == expected
    assert read(folder, json.dumps(content, indent="\t"), "my.JSON") == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["my.yaml", "my.json"])
def test_encodings(folder, name, encoding):
    content = '{"images": "C:/sets", "classes": ["Käse"]}'.encode(encoding)
    assert read(folder, content, name)["classes"] == ["Käse"]


def test_empty_text_and_null_where_a_key_may_be_empty(folder):
    assert read(folder, "images: C:/sets\npoints:")["points"] == ""
    assert read(folder, "images: C:/sets\npoints: ''")["points"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "describes no data set"),
        ("- images", "describes no data set"),
        ("images: [", "is no yaml or json file"),
        ('images: "C:\\sets"', "is no yaml or json file .*unknown escape"),
        ('images: "C:\\new"', "images is 'C:\\\\new': in double quotes a backslash is written twice"),
        ("images: !!python/object/apply:os.getcwd []", "is no yaml or json file"),
        (b"images: K\xe4se", "is no yaml or json file"),
        ("list: train", "lacks the key images"),
        ("images: C:/sets\nmasks: m", "unknown key 'masks'; known are folder, images"),
        ("images: C:/sets\n1: m", "unknown key '1'"),
        ("images: C:/sets\nimages: C:/other", "has the key images 2 times"),
        ("images:", "images is None, but must be text"),
        ("images: ~", "images is None, but must be text"),
        ("images: 2024-01-01", "images is datetime.* must be text, in quotes"),
        ("images: ' '", "images is ' ', but must be text"),
        ("images: [a, b]", "images is .* must be text"),
        ("images: C:/sets\npoints: false", "points is False, but must be text"),
        ("images: C:/sets\nclasses: [no]", "classes is .False., but must be a list of names"),
        ("images: C:/sets\nunit: Percent", "unit is 'Percent', but must be pixels or percent"),
        ("images: C:/sets\nlist: C:/sets", "list 'C:/sets' is no file"),
        ("images: my.yaml", "images 'my.yaml' is no folder"),
        ("images: 'images '", "images '.*images ' does not exist"),
        ("images: C:/sets\nfolder: nowhere", "folder '.*nowhere' does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(folder, content, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(folder, content)
    assert "my.yaml'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ['{"images": "a", "images": "b"}', '{"images": }', "[1]", "[" * 99999])
def test_a_mistake_in_a_json(folder, content):
    with pytest.raises(ValueError, match="my.json' (has the key images 2 times|is no yaml|describes no)"):
        read(folder, content, "my.json")
