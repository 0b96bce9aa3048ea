"""A bundle that somebody made up is one BundleError, before memory or time is spent on it."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from crafted import copy_bundle, manifest_alone, reseal

from sdk.bundles.damage import read_array, read_arrays
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest, unlisted_files
from sdk.bundles.watch import WatchedFiles
from sdk.cli import main
from sdk.errors import BundleError, FormatError, IntegrityError
from sdk.runtime import tokenizer as tokenizer_module
from sdk.runtime.backends.select import open_backend
from sdk.runtime.ngrams import Ngrams
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.tokenizer import read_tokenizer
from sdk.runtime.verify import Reference

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def put(*keys, value):
    """A change that sets content[keys[0]][keys[1]]... to a value."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("name", value=f"model{ESCAPE}"), "control characters"),
        (put("name", value="model\nverified: yes"), "name"),
        (put("notice", value=f"{ESCAPE}safe"), "control characters"),
        (put("provenance", ESCAPE, value="x"), "control characters"),
        (put("licences", 0, "origin", value="\u202egpj.exe"), "control characters"),
        (put(ESCAPE, value=1), "control characters"),
        (put("geometry", "layers", value=0), r"geometry\.layers"),
        (put("geometry", "layers", value=10**6), r"geometry\.layers"),
        (put("geometry", "layers", value=10**19), r"geometry\.layers"),
        (put("geometry", "heads", value=7), "evenly"),
        (put("geometry", "kv_heads", value=-6), "kv_heads"),
        (put("geometry", "head_size", value=1 << 40), "head_size"),
        (put("geometry", "hidden_size", value=0), "hidden_size"),
        (put("geometry", "vocabulary", value=3), "vocabulary of 3"),
        (put("geometry", "context", value=10), "the context has 10"),
        (put("prompt", "prefix_ids", value=[10**9]), "vocabulary"),
        (put("prompt", "prefix_ids", value=[-1]), "prefix_ids"),
        (put("prompt", "stop_ids", value=[]), "stop_ids"),
        (put("prompt", "stop_ids", value=[4096]), "vocabulary"),
        (put("prompt", "questions", value={}), "questions"),
        (put("prompt", "questions", "emotion", "token_ids", value=[]), "token_ids"),
        (put("prompt", "free_question", value="no mark"), "free_question"),
        (put("prompt", "image_rows", value=1 << 30), "image_rows"),
        (put("prompt", "max_new_tokens", value=0), "max_new_tokens"),
        (put("preprocessing", "image_size", value=1 << 30), "image_size"),
        (put("preprocessing", "image_std", value=[0, 1, 1]), "image_std"),
        (put("preprocessing", "image_mean", value=[1e308, 0, 0]), "image_mean"),
        (put("preprocessing", "image_std", value=[1e-300, 1, 1]), "image_std"),
        (put("preprocessing", "anchors", value=[[3, 1e308, 0], [5, 0, 0]]), "anchors"),
        (put("preprocessing", "face_scale", value=1e30), "face_scale"),
        (put("files", value={}), "is not listed, but the runtime reads it"),
        (lambda content: content["files"].pop("answers.ngrams"), r"answers\.ngrams is not listed"),
        (put("evaluation", value="secret.json"), r"secret\.json is not listed"),
        (put("vision", value="a\x00b"), "control characters"),
        (put("vision", value="*/vision.onnx"), "leaves the bundle"),
        (put("encoder_weights", value=-1), "encoder_weights"),
        (put("format", value=[1] * 1000), "this version reads format 1"),
    ],
)
def test_a_manifest_with_impossible_values_is_refused(tmp_path, change, message, capsys):
    folder = manifest_alone(tmp_path, change)
    with pytest.raises(FormatError, match=message) as caught:
        read_manifest(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert main(["info", str(folder)]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"format":' * 100_000, '{"format": 1, "name": "\\ud800"}', '{"format": ' + "1" * 5000 + "}"),
        *('{"format": NaN}', '{"format": 1e999}', "", "null", "\x00", '{"format": 1, "digest": {}}'),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_model_of_another_shape_than_the_manifest_says_is_refused(tmp_path):
    folder = reseal(copy_bundle(tmp_path / "bundle"), change=put("geometry", "layers", value=64))
    with pytest.raises(BundleError, match="expected a decoder of 64 layers"):
        open_backend(folder, read_manifest(folder))
    reseal(folder, change=put("preprocessing", "image_size", value=336))
    with pytest.raises(BundleError, match=r"vision\.onnx: expected inputs of .*336"):
        open_backend(folder, read_manifest(folder))


def test_files_that_the_manifest_does_not_list_are_named(tmp_path, capsys):
    """Verify said "all hashes match" about a folder with other files; engines have hashes of their own."""
    folder = copy_bundle(tmp_path / "bundle")
    (folder / "decoder" / f"extra{ESCAPE[:1]}.py").write_text("x")
    (folder / "engines").mkdir()
    (folder / "engines" / "a.plan").write_text("x")
    assert unlisted_files(folder, read_manifest(folder)) == (f"decoder/extra{ESCAPE[:1]}.py",)
    assert main(["verify", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "not in the manifest, so neither checked nor read: decoder/extra\N{REPLACEMENT CHARACTER}.py" in told


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    data = text.encode("latin1")
    size = len(data).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + data


HEADERS = {
    "empty": b"",
    "no magic": b"PK\x05\x06" + bytes(18),
    "cut": b"\x93NUMPY\x01\x00\xff\xff{",
    "version 9": header("{}", b"\x09\x00"),
    "brackets": header("(" * 5000),
    "open brace": header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,"),
    "tokens": header("{'descr': '<f4', 'shape': (3L,\n'''"),
    "indent": header("  {\n 'a'\n  : 1"),
    "no dict": header("[1]"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + bytes(8),
    "records": header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }") + bytes(4),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }") + bytes(4),
    "too many": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40,), }") + bytes(4),
    "terabytes": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }") + bytes(4),
    "overflow": header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,), }") + bytes(4),
    "no type": header("{'descr': 'zz', 'fortran_order': False, 'shape': (1,), }") + bytes(4),
    "huge type": header("{'descr': '<U2000000000', 'fortran_order': False, 'shape': (1,), }") + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_npy_header_is_one_error(tmp_path, name):
    """numpy raises TokenError, SyntaxError, RecursionError, MemoryError and more for these."""
    path = tmp_path / "1.npy"
    path.write_bytes(HEADERS[name])
    for mapped in (False, True):
        with pytest.raises(ValueError):
            read_array(path, mapped=mapped)
    with zipfile.ZipFile(tmp_path / "1.npz", "w") as archive:
        archive.writestr("parent.npy", HEADERS[name])
    with pytest.raises(IntegrityError, match=r"1\.npz: not a table of n-grams"):
        Ngrams.load(tmp_path / "1.npz", 100)


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.zeros((0, 3))}
    arrays["d"] = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez_compressed(tmp_path / "1.npz", **arrays)
    for name, found in read_arrays(tmp_path / "1.npz").items():
        assert found.dtype == arrays[name].dtype
        np.testing.assert_array_equal(found, arrays[name])
    np.save(tmp_path / "1.npy", arrays["d"])
    for mapped in (False, True):
        np.testing.assert_array_equal(read_array(tmp_path / "1.npy", mapped=mapped), arrays["d"])


def damaged_archives():
    file = io.BytesIO()
    np.savez_compressed(file, parent=np.zeros(4, np.int32))
    good = file.getvalue()
    central = good.rindex(b"PK\x01\x02")

    def with_bytes(*changes):
        data = bytearray(good)
        for at, value in changes:
            data[at] = value
        return bytes(data)

    yield "encrypted", with_bytes((6, 1), (central + 8, 1))
    yield "another compression", with_bytes((8, 99), (central + 10, 99))
    yield "a wrong checksum", with_bytes((central + 16, good[central + 16] ^ 1))
    yield "cut", good[:-30]
    yield "an array", HEADERS["objects"]
    yield "a pickle", b"\x80\x04K\x01."


ARCHIVES = dict(damaged_archives())


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_one_error(tmp_path, name):
    path = tmp_path / "answers.ngrams"
    path.write_bytes(ARCHIVES[name])
    with pytest.raises(ValueError):
        read_arrays(path)
    for load in (lambda: Ngrams.load(path, 100), lambda: Reference.load(path)):
        with pytest.raises(IntegrityError, match=r"answers\.ngrams: not"):
            load()


def test_a_small_file_that_expands_to_gigabytes_is_refused_unread(tmp_path):
    """`answers.ngrams` of 6 MB expanded to 6 GB; the size is in the directory of the archive."""
    path = tmp_path / "answers.ngrams"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("parent.npy", bytes(20_000_000))
    assert path.stat().st_size < 30_000
    with pytest.raises(IntegrityError, match="it expands to 20 MB; expected at most 17 MB"):
        Ngrams.load(path, 100)


def put_in_tokenizer(tmp_path, change) -> Path:
    content = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


REGEX = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}


@pytest.mark.parametrize(
    "change",
    [
        put("padding", value={"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0}),
        put("truncation", value={"max_length": 1, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}),
        put("pre_tokenizer", value={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}),
        put("normalizer", value=REGEX),
        put("normalizer", "normalizers", 0, value=REGEX),
        put("normalizer", "normalizers", 0, "prepend", value="x" * 5000),
        put("decoder", "decoders", value=[{"type": "WordPiece"}]),
        put("decoder", "decoders", value=7),
        put("model", value={"type": "Unigram", "vocab": []}),
        put("model", "dropout", value=0.5),
        put("model", "vocab", "new", value=1024),
        put("model", "vocab", "new", value=-1),
        put("model", "vocab", value=[1]),
        put("model", "merges", value=[["not", "there"]]),
        put("added_tokens", value=[{"id": 10**9}]),
        put("model", value=None),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, change):
    path = put_in_tokenizer(tmp_path, change)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: not a tokenizer of Llama's kind"):
        read_tokenizer(path, 1024)


def test_the_embedded_tokenizer_is_read():
    assert read_tokenizer(EMBEDDED / "tokenizer.json", 1024).encode("a face", add_special_tokens=False).ids


class PanicException(BaseException):
    """What pyo3 raises for a panic of Rust code: no Exception."""


def test_a_panic_of_the_tokenizer_library_is_an_error_of_the_bundle(monkeypatch):
    """`except Exception` lets it through; an interruption by the user must still pass."""

    def fail(path):
        raise error

    monkeypatch.setattr(tokenizer_module, "Tokenizer", type("T", (), {"from_file": staticmethod(fail)}))
    error = PanicException("index out of bounds")
    with pytest.raises(IntegrityError, match="index out of bounds"):
        read_tokenizer(EMBEDDED / "tokenizer.json", 1024)
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        read_tokenizer(EMBEDDED / "tokenizer.json", 1024)


def opened(folder):
    manifest = read_manifest(folder)
    return Pipeline(folder, manifest, open_backend(folder, manifest))


def read_face(pipeline):
    g, prompt = pipeline.manifest.geometry, pipeline.manifest.prompt
    return pipeline.encode_rows(np.zeros((prompt.image_rows, g.hidden_size), np.float32), np.zeros(212, np.float32))


def test_a_file_that_is_truncated_while_it_is_mapped_is_an_error_and_kills_nothing(tmp_path):
    """The embeddings are mapped: reading behind their new end is a bus error, which ends the process."""
    folder = copy_bundle(tmp_path / "bundle")
    pipeline = opened(folder)
    face = read_face(pipeline)
    os.truncate(folder / "decoder/embeddings.npy", 128)
    for use in (lambda: read_face(pipeline), lambda: pipeline.generate(face, "emotion")):
        with pytest.raises(IntegrityError, match=r"embeddings\.npy was changed while the bundle was open"):
            use()


def test_a_bundle_that_is_replaced_by_a_rename_stays_open_as_it_was(tmp_path):
    folder = copy_bundle(tmp_path / "bundle")
    pipeline = opened(folder)
    folder.rename(tmp_path / "old")
    copy_bundle(folder)
    assert read_face(pipeline).prefix > 0


def test_a_file_that_is_replaced_while_a_bundle_opens_is_no_silent_mixture(tmp_path, monkeypatch):
    folder = copy_bundle(tmp_path / "bundle")

    def read(path, vocabulary):
        (tmp_path / "new").write_bytes((folder / "vision.onnx").read_bytes())
        (tmp_path / "new").replace(folder / "vision.onnx")
        return read_tokenizer(path, vocabulary)

    monkeypatch.setattr("sdk.runtime.pipeline.read_tokenizer", read)
    with pytest.raises(IntegrityError, match=r"vision\.onnx was replaced while the bundle was opened"):
        opened(folder)


def test_a_file_of_another_size_than_the_manifest_says_is_noticed_at_the_opening(tmp_path):
    files = read_manifest(EMBEDDED).files
    with pytest.raises(IntegrityError, match="was replaced while it was opened"):
        WatchedFiles(tmp_path, files)
