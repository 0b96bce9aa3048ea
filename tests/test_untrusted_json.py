"""JSON that anybody may have written is read, or refused with one error of the reader's own kind."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdk.errors import CheckpointError, DataError
from sdk.untrusted_json import LINE_SIZE, parse_json, read_json, read_json_lines, read_json_object

ROOT = Path(__file__).parents[1]


def test_what_json_allows_is_read_as_by_the_standard_library():
    text = '{"a": [1, -2.5e-3, true, null, "\\u00e9 \\ud83d\\ude00"], "b": {"c": 18446744073709551615}}'
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    assert parse_json("[" * 64 + "]" * 64) == json.loads("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "64 levels deep"),
        ("[" * 200_000, "64 levels deep"),
        ('{"a":' * 200_000, "64 levels deep"),
        ("[" + "1" * 4400 + "]", "more than 20 digits"),
        ("[-" + "1" * 400 + "]", "more than 20 digits"),
        ("[1e999]", "infinite"),
        ("[Infinity]", "Infinity is not a number of JSON"),
        ("[NaN]", "NaN is not a number of JSON"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\uDFFF": 1}', "surrogate"),
        (b"[\xff]", "no UTF-8 at byte 1"),
        ("", "Expecting value"),
        ('{"a": 1', "delimiter"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_every_other_text_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_a_file_is_one_error_that_names_it(tmp_path):
    path = tmp_path / "about.json"
    with pytest.raises(DataError, match=r"about\.json cannot be read \(No such file"):
        read_json(path, DataError)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path, DataError)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"about\.json is not JSON \(more than 64 levels deep\); delete it"):
        read_json(path, DataError, advice="delete it")
    path.write_text("[1, 2]")
    assert read_json(path, DataError) == [1, 2]
    with pytest.raises(DataError, match="expected a JSON object, found a list"):
        read_json_object(path, DataError)
    with pytest.raises(DataError, match="of at most 0 MB"):
        read_json(path, DataError, limit=5)


def test_an_endless_file_ends_at_the_limit():
    with pytest.raises(DataError, match="of at most 1 MB"):
        read_json(Path("/dev/zero"), DataError, limit=1 << 20)


def test_no_module_parses_json_in_another_way():
    """Two readers had two limits and two messages. Exceptions: what this program has just written itself.

    Replies of servers are bounded by the HTTP client and parsed by pydantic, which has a limit of depth of its own.
    """
    own = {"sdk/bench/footprint.py", "trainer/training/train.py", "sdk/untrusted_json.py"}
    found = set()
    for package in ("sdk", "trainer", "export"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and _is(node.value, "json"):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found <= own, "use sdk.untrusted_json"


def _is(node, name):
    return isinstance(node, ast.Name) and node.id == name


def test_readers_of_the_trainer_refuse_a_deep_file(tmp_path):
    """Each ended in a RecursionError, or in a message of its own, before."""
    pytest.importorskip("torch")
    from trainer.corpus.landmarks import recorded_mode
    from trainer.corpus.records import read_rows
    from trainer.model.config import read_json as read_config
    from trainer.model.weights import weight_files

    for name in ("about.json", "model.safetensors.index.json", "config.json"):
        (tmp_path / name).write_text("[" * 100_000)
    record = SimpleNamespace(landmark_path=tmp_path / "1.npy")
    for read, error in (
        (lambda: read_rows(tmp_path / "config.json"), DataError),
        (lambda: read_config(tmp_path / "config.json"), CheckpointError),
        (lambda: weight_files(tmp_path), CheckpointError),
        (lambda: recorded_mode([record]), DataError),
    ):
        with pytest.raises(error, match="json is not JSON .more than 64 levels deep"):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"a"\n', r"line 3: Expecting ':' delimiter"),
        (b'"' + b"x" * LINE_SIZE + b'"\n', "line 1 is longer than 4 MB"),
        (b"\xff\n", "line 1: no UTF-8 at byte 0"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path, content, message):
    """Lines are read one after the other, so a long one takes no memory."""
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"rows\.jsonl is not JSONL \({message}.*\); copy it again"):
        read_json_lines(tmp_path / "rows.jsonl", DataError)


def test_a_byte_order_mark_is_skipped(tmp_path):
    """Windows PowerShell and Excel write one in front of UTF-8."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_json_lines(path, DataError) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path, DataError) == [1]
