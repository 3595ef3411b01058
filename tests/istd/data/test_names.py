import pytest

from istd.data.names import NameTable, check_inside, image_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a.png", "a"),
        ("./a.PNG", "a"),
        ("seq1\\0000.tiff", "seq1/0000"),
        ("seq1/frame.001", "seq1/frame.001"),
        (" a ", "a"),
        ("A\u0308.png", "\u00c4"),
    ],
)
def test_keys(text, key):
    assert image_key(text) == key


def test_a_table_with_more_folders_than_the_names():
    table = NameTable(["/data/seq1/0000", "/data/seq2/0000", "/data/seq2/0001"], "p.csv")
    assert table.find("seq2/0000") == "/data/seq2/0000"
    assert table.find("0001") == "/data/seq2/0001"
    assert table.find("q2/0001") is None
    with pytest.raises(ValueError, match=r"p\.csv: image '0000' may be each of /data/seq1/0000, /data/seq2/0000"):
        table.find("0000")


def test_the_exact_name_comes_first():
    assert NameTable(["a", "x/a"], "p.csv").find("a") == "a"


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a", "C:\\a.png", "..\\a"])
def test_names_stay_in_their_folder(name):
    with pytest.raises(ValueError, match="leads out of the folder"):
        check_inside(name, "train.txt")


@pytest.mark.parametrize("name", ["a..png", "seq1/0000", "a:b"])
def test_other_names_are_fine(name):
    check_inside(name, "train.txt")
