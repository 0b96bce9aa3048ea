"""insightface's weights: found by name, known by hash, let in only on their terms."""

import hashlib

import pytest

from export.networks import TERMS, check_terms, licence_of
from sdk.bundles import insightface_packs
from sdk.bundles.insightface_packs import KnownNetwork
from sdk.errors import ExportError


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A pack in insightface's folder whose landmark file counts as the released one."""
    folder = tmp_path / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    path = folder / "2d106det.onnx"
    path.write_bytes(b"weights")
    known = KnownNetwork("2d106det.onnx", "landmark", hashlib.sha256(b"weights").hexdigest(), 7)
    monkeypatch.setattr(insightface_packs, "KNOWN", (known, insightface_packs.KNOWN[1]))
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    return path


def find_model(name, role):
    return insightface_packs.find_model(name, role, ExportError)


def test_a_pack_name_is_its_file(pack):
    assert find_model("buffalo_l", "landmark") == pack
    assert find_model(str(pack), "landmark") == pack


def test_a_partial_pack_is_refused(pack):
    """A missing file and a file that a broken download left behind."""
    with pytest.raises(ExportError, match=r"holds no det_10g.onnx; fetch the pack once"):
        find_model("buffalo_l", "detector")
    pack.write_bytes(b"weig")
    with pytest.raises(ExportError, match=r"is not the file that insightface released"):
        find_model("buffalo_l", "landmark")
    with pytest.raises(ExportError, match="landmark model absent.onnx does not exist"):
        find_model("absent.onnx", "landmark")


def test_what_cannot_be_checked_is_not_taken_by_name(pack):
    """Every pack has the same landmark network; of the detectors only buffalo_l's has a known hash."""
    other = pack.parents[1] / "buffalo_s"
    pack.parent.rename(other)
    assert find_model("buffalo_s", "landmark") == other / pack.name
    with pytest.raises(ExportError, match=r"no SHA-256 is known for det_500m.onnx.*pass the file itself if you trust"):
        find_model("buffalo_s", "detector")
    (other / "det_500m.onnx").write_bytes(b"unknown")
    with pytest.raises(ExportError, match="--accept-noncommercial"):
        check_terms(other / "det_500m.onnx", "detector", accepted=False)


def test_non_commercial_weights_need_consent(pack, landmark_network):
    licence = licence_of(pack, "landmark")
    assert licence.licence == TERMS
    assert licence.origin.startswith("insightface 2d106det.onnx, SHA-256 ")
    with pytest.raises(ExportError, match="--accept-noncommercial"):
        check_terms(pack, "landmark", accepted=False)
    check_terms(pack, "landmark", accepted=True)
    check_terms(landmark_network, "landmark", accepted=False)
    assert licence_of(landmark_network, "landmark").licence == "not known; ask its maker"


def test_the_released_files_are_known():
    """Hashes and sizes as insightface released them in buffalo_l; changing one is a decision."""
    assert [(network.sha256[:8], network.size) for network in insightface_packs.KNOWN] == [
        ("f001b856", 5030888),
        ("5838f7fe", 16923827),
    ]
