"""A bundle that is not exactly what was sealed does not open."""

import json
import shutil

import pytest

from sdk.bundles.manifest import check_hashes, read_manifest, with_digest
from sdk.errors import BundleNotFoundError, FormatError, IntegrityError


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle(), tmp_path / "copy")


def rewrite(bundle, **changes):
    """Write a manifest with other content and a digest that fits it."""
    path = bundle / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    del content["digest"]
    path.write_text(with_digest(content))


def test_round_trip(copy):
    manifest = read_manifest(copy)
    check_hashes(copy, manifest)
    assert json.loads(manifest.to_json()) == json.loads((copy / "manifest.json").read_text())
    rewrite(copy, name="renamed")
    assert read_manifest(copy).name == "renamed"


def test_every_file_is_listed(copy):
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert files == {*read_manifest(copy).files, "manifest.json"}


def edit(text, old, new):
    def change(bundle):
        path = bundle / text
        path.write_text(path.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda b: (b / "manifest.json").unlink(), BundleNotFoundError, "no manifest.json in it"),
        (lambda b: shutil.rmtree(b), BundleNotFoundError, "no such folder"),
        (lambda b: (b / "vision.onnx").unlink(), IntegrityError, "vision.onnx is missing"),
        (lambda b: (b / "vision.onnx").write_bytes(b"x"), IntegrityError, "expected .* bytes, found 1"),
        (edit("manifest.json", '"crop"', '"pad"'), FormatError, "does not match its digest"),
        (
            edit("manifest.json", '"format": 1', '"format": 2'),
            FormatError,
            "bundle format 2; this version reads format 1",
        ),
        (lambda b: (b / "manifest.json").write_text("{"), FormatError, "is not JSON"),
        (lambda b: (b / "manifest.json").write_text("[]"), FormatError, "expected a JSON object"),
        (lambda b: rewrite(b, vision="../vision.onnx"), FormatError, "leaves the bundle"),
        (lambda b: rewrite(b, vision="/etc/passwd"), FormatError, "leaves the bundle"),
        (lambda b: rewrite(b, surprise=1), FormatError, "surprise"),
        (lambda b: rewrite(b, variants=[]), FormatError, "variants"),
    ],
)
def test_damage_is_refused(copy, damage, error, message):
    damage(copy)
    with pytest.raises(error, match=message):
        read_manifest(copy)


def test_a_link_out_of_the_bundle_leads_to_the_same_content_or_is_refused(copy, tmp_path):
    elsewhere = (copy / "vision.onnx").rename(tmp_path / "elsewhere.onnx")
    (copy / "vision.onnx").symlink_to(elsewhere)
    read_manifest(copy)
    elsewhere.write_bytes(bytes(elsewhere.stat().st_size))
    with pytest.raises(IntegrityError, match="leaves the bundle"):
        read_manifest(copy)


def test_one_changed_byte_is_found(copy):
    """Same size, so that only the hash can tell."""
    path = copy / "decoder" / "float32.onnx.data"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"float32\.onnx\.data: the content was changed"):
        check_hashes(copy, read_manifest(copy))
