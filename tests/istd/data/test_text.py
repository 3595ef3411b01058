import pytest

from istd.data.text import read_text

TEXT = "image,x,y\nSchl\u00fcssel_00,1,2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_any_encoding_gives_the_same_text(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.csv") == TEXT


def test_an_empty_file_is_an_empty_text(tmp_path):
    (tmp_path / "a.csv").touch()
    assert read_text(tmp_path / "a.csv") == ""


def test_a_binary_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"abc\0\0\0\0\0\0def ghi jkl mno pqr stu vwx yz")
    with pytest.raises(ValueError, match=r"a\.csv is not a text file"):
        read_text(tmp_path / "a.csv")
