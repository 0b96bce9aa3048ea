"""Label files in another encoding, with damaged bytes or endless numbers are one error that names the file."""

import pytest

from sdk.errors import DataError
from trainer.corpus.datasets.disfa import _read_intensities
from trainer.corpus.datasets.gft import read_partition
from trainer.corpus.datasets.occurrence import read_occurrence
from trainer.corpus.datasets.rafdb import LIST, read_rafdb


def read_list(path):
    folder = path.parent / "basic"
    (folder / LIST).parent.mkdir(parents=True)
    path.rename(folder / LIST)
    return read_rafdb(folder)


READERS = {
    "rafdb": (read_list, b"train_00001.jpg 5\n"),
    "disfa": (_read_intensities, b"1,0\n2,5\n"),
    "gft": (read_partition, b"participant,split\n001A,train\n"),
    "occurrence": (lambda path: read_occurrence(path, [1, 4]), b"frame,AU1,AU4\n7,0,1\n"),
}
NINES = b"9" * 4400  # more digits than Python turns into a number
DAMAGE = {
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "latin-1": lambda text: text + "é,1\n".encode("latin-1"),
    "damaged": lambda text: text[:3] + b"\xff\xfe" + text[3:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(("read", "text"), READERS.values(), ids=READERS)
def test_another_encoding_is_named(tmp_path, read, text, damage):
    """DISFA's reader used the encoding of the machine, the others stopped with a UnicodeDecodeError."""
    path = tmp_path / "labels.txt"
    path.write_bytes(damage(text))
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 0x[0-9a-f]{2} at place \d+\): save it as UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        ("rafdb", b"train_00001.jpg " + NINES),
        ("rafdb", b"train_" + b"x" * 5000 + b".jpg 5"),
        ("rafdb", b"train_\0.jpg 5"),
        ("disfa", NINES + b",0"),
        ("disfa", b"1," + NINES),
        ("disfa", b"1,0\n\0\0\0\0"),
        ("gft", b'001A,"' + b"x" * 200_000),
        ("gft", b"001A,train\0"),
        ("occurrence", b"frame,AU1,AU4\n" + NINES + b",0,1"),
        ("occurrence", b"frame,AU1,AU4\n-7,0,1"),
        ("occurrence", b"frame,AU1,AU4\n7,0," + NINES),
        ("occurrence", b"frame,AU1,AU" + NINES + b"\n7,0,1"),
        ("occurrence", b'frame,AU1,"AU4' + b"x" * 200_000),
    ],
)
def test_damaged_lines_are_one_short_error(tmp_path, reader, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        READERS[reader][0](path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_byte_order_mark_and_the_line_ends_of_windows_are_read(tmp_path):
    for reader, expected in (("disfa", {1: 0, 2: 5}), ("occurrence", ({7: frozenset({4})}, 0))):
        read, text = READERS[reader]
        path = tmp_path / f"{reader}.txt"
        path.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
        assert read(path) == expected
