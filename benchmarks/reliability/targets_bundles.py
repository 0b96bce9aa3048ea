"""Bundles: damaged manifests, arrays and files, every flipped bit, and whole analyses of the embedded bundle."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import changed, damaged_bytes, damaged_json, hostile_value, json_bytes
from seeds import damaged_picture, picture_files
from worker import Call, Target

from sdk import Analyzer
from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import MANIFEST, check_hashes, read_manifest, with_digest
from sdk.errors import BundleError, IntegrityError, SdkError
from sdk.runtime.ngrams import Ngrams
from sdk.runtime.verify import Reference

_NOT_JUDGED = ("latency", "layers", "gate", "digest")  # measured times and the digest itself
_CROP = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@cache
def _manifest() -> Any:
    content = json.loads((EMBEDDED / MANIFEST).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "digest"}


def damaged_manifest(index: int) -> bytes:
    """A manifest with one to eight changed nodes and, nearly always, the digest of its content."""
    draw = Random(f"manifest {index}")
    content = changed(_manifest(), draw, draw.choice((1, 1, 1, 2, 3, 8)))
    if draw.random() < 0.9 and isinstance(content, dict):
        try:
            return with_digest(content).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError, MemoryError):  # the indentation of deep lists takes gigabytes
            pass
    return json_bytes(content, draw)


def _copy(scratch: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, scratch / "bundle"))


def _open_manifest(scratch: Path) -> Call:
    folder = _copy(scratch)

    def call(data: bytes) -> None:
        (folder / MANIFEST).write_bytes(data)
        read_manifest(folder)

    return call


def _open_bundle(scratch: Path) -> Call:
    folder = _copy(scratch)

    def call(data: bytes) -> None:
        (folder / MANIFEST).write_bytes(data)
        _use(folder)

    return call


def _use(folder: Path) -> str:
    """Open a bundle and analyse one picture, briefly."""
    with Analyzer(folder) as analyzer:
        analysis = analyzer.analyze(_CROP, color="rgb", faces="aligned", max_new_tokens=8)
    return json.dumps([face.model_dump(mode="json") for face in analysis.faces])


def _damaged_file(index: int) -> bytes:
    """One file of the bundle as JSON header and content: its size is right in the manifest, its hash is not."""
    draw = Random(f"file {index}")
    name = draw.choice([name for name in _manifest()["files"] if not name.endswith(".data")])
    content = (EMBEDDED / name).read_bytes()
    damaged = damaged_json(json.loads(content), draw) if name.endswith(".json") else damaged_bytes(content, draw)
    return name.encode() + b"\n" + damaged


def _open_file(scratch: Path) -> Call:
    folder = _copy(scratch)

    def call(data: bytes) -> None:
        name, content = data.split(b"\n", 1)
        with _replaced(folder / name.decode(), content):
            files = _manifest()["files"]
            record = {**files[name.decode()], "size": len(content)}
            changed_files = {**files, name.decode(): record}
            (folder / MANIFEST).write_text(with_digest({**_manifest(), "files": changed_files}), encoding="utf-8")
            _use(folder)

    return call


@contextmanager
def _replaced(path: Path, content: bytes) -> Any:
    before = path.read_bytes()
    path.unlink()  # a file of another inode, because an earlier one may still be mapped
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()
        path.write_bytes(before)


@cache
def _array_files() -> tuple[bytes, ...]:
    """Packed arrays by the reader that they are for: n-grams (0), reference (1), embeddings (2)."""
    draw = np.random.default_rng(0)
    entries = draw.integers(0, 500, (2, 60), dtype=np.int32)
    ngrams = {"parent": np.zeros(60, np.int32), "token": entries[0], "follower": entries[1]}
    ngrams["share"] = np.full(60, 0.5, np.float16)
    shapes = {"landmark_pixels": (1, 3, 4, 4), "landmark_features": (1, 212), "pixel_values": (1, 3, 4, 4)}
    shapes |= {"rows": (1, 3, 8), "logits": (1, 2, 20)}
    reference: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    reference |= {"tasks": np.array(["emotion", "action_units"]), "token_ids": np.zeros((1, 2, 4), np.int32)}
    table = io.BytesIO()
    np.save(table, np.zeros((500, 8), np.float16))
    files = [b"\2" + table.getvalue()]
    for save in (np.savez, np.savez_compressed):
        for kind, arrays in ((b"\0", ngrams), (b"\1", reference)):
            stream = io.BytesIO()
            save(stream, **arrays)
            files.append(kind + stream.getvalue())
    return tuple(files)


def _damaged_array(index: int) -> bytes:
    draw = Random(f"array {index}")
    content = draw.choice(_array_files())
    return content[:1] + damaged_bytes(content[1:], draw)


def _open_array(scratch: Path) -> Call:
    path = scratch / "arrays"
    geometry = read_manifest(EMBEDDED).geometry.model_copy(update={"vocabulary": 500, "hidden_size": 8})
    read: list[Callable[[], object]] = [
        lambda: Ngrams.load(path, 500),
        lambda: Reference.load(path),
        lambda: np.asarray(read_embeddings(path, geometry)),
    ]

    def call(data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data[1:])
        read[sum(data[:1]) % 3]()

    return call


def _flipped_manifest(index: int) -> bytes:
    data = bytearray((EMBEDDED / MANIFEST).read_bytes())
    data[index // 8] ^= 1 << index % 8
    return bytes(data)


def _judge_manifest(scratch: Path) -> Call:
    """A flipped bit is refused, or it is in a figure of time that no result depends on."""
    folder = _copy(scratch)
    whole = read_manifest(EMBEDDED).model_dump(exclude=set(_NOT_JUDGED))

    def call(data: bytes) -> None:
        (folder / MANIFEST).write_bytes(data)
        assert read_manifest(folder).model_dump(exclude=set(_NOT_JUDGED)) == whole, "another manifest was accepted"

    return call


def _flipped_file(index: int) -> bytes:
    """Name of a file and the position of the bit; the files take turns."""
    names = sorted(_manifest()["files"])
    name = names[index % len(names)]
    bit = Random(f"flip {index}").randrange(8 * (EMBEDDED / name).stat().st_size)
    return f"{name}\n{bit}".encode()


def _judge_file(scratch: Path) -> Call:
    """`verify` refuses every flipped bit; without it the bundle is refused or works, and never ends the process."""
    folder = _copy(scratch)
    manifest = read_manifest(folder)

    def call(data: bytes) -> None:
        name, bit = data.decode().split("\n")
        content = bytearray((folder / name).read_bytes())
        content[int(bit) // 8] ^= 1 << int(bit) % 8
        with _replaced(folder / name, bytes(content)):
            try:
                check_hashes(folder, manifest)
            except IntegrityError:
                _use(folder)
                return
            raise AssertionError(f"verify accepts {name} with bit {bit} flipped")

    return call


def _request(index: int) -> bytes:
    """A picture and how it is analysed."""
    draw = Random(f"analysis {index}")
    options = {
        "kind": draw.choice(("bytes", "bytes", "array", "batch", "ask", "labels")),
        "faces": draw.choice(("aligned", "aligned", "detect")),
        "limit": draw.choice((None, 1, 2, 8, 24)),
        "tasks": draw.choice((["emotion"], ["action_units"], ["emotion", "action_units"], [], ["x"], ["labels"] * 2)),
        "shape": [draw.choice((0, 1, 2, 3, 4, 7, 64, 300)) for _ in range(draw.choice((1, 2, 3, 3, 3, 3, 4)))],
        "type": draw.choice(("uint8", "uint8", "uint8", "float32", "bool", "object", "U1")),
        "question": str(hostile_value(draw))[: draw.choice((10, 3000, 100_000))],
    }
    picture = draw.choice(picture_files()) if draw.random() < 0.5 else damaged_picture(draw)
    return json.dumps(options).encode() + b"\n" + picture


def _open_analyzer(scratch: Path) -> Call:
    analyzer = Analyzer()
    analyzer.warmup()

    def call(data: bytes) -> None:
        header, picture = data.split(b"\n", 1)
        o = json.loads(header)
        most = 300 if len(o["shape"]) < 4 else 64  # an array of the fuzzer's own must fit into memory
        array = np.zeros([min(size, most) for size in o["shape"]], o["type"])
        match o["kind"]:
            case "bytes":
                found = [analyzer.analyze(picture, tasks=o["tasks"], faces=o["faces"], max_new_tokens=o["limit"])]
            case "array":
                found = [analyzer.analyze(array, color="rgb", faces=o["faces"], max_new_tokens=o["limit"])]
            case "batch":
                pictures = [picture, picture_files()[0], array]
                found = analyzer.analyze_batch(pictures, faces=o["faces"], max_new_tokens=4, keep_going=True)
            case "ask":
                assert isinstance(analyzer.ask(picture, o["question"], faces="aligned"), str)
                return
            case _:
                found = [analyzer.analyze(picture, tasks=("labels",), faces="aligned")]
        for analysis in found:
            json.loads(analysis.to_json())

    return call


BUNDLE_TARGETS = (
    Target("manifest", "manifests", _open_manifest, damaged_manifest, (BundleError,), 100_000),
    Target("arrays", "packed arrays", _open_array, _damaged_array, (BundleError,), 200_000),
    Target(
        "bundles", "bundles opened and used, manifest damaged", _open_bundle, damaged_manifest, (SdkError,), 5000, 500
    ),
    Target("files", "bundles opened and used, a file damaged", _open_file, _damaged_file, (SdkError,), 5000, 250),
    Target("analyses", "whole analyses", _open_analyzer, _request, (SdkError,), 10_000, 500),
    Target(
        "manifest-bits",
        "every bit of emola-nano's manifest",
        _judge_manifest,
        _flipped_manifest,
        (BundleError,),
        8 * (EMBEDDED / MANIFEST).stat().st_size,
    ),
    Target("file-bits", "bits of emola-nano's files", _judge_file, _flipped_file, (SdkError,), 500, 100),
)
