"""The networks of insightface: found by pack name or file, known by their hash, let in on their own terms.

The code of insightface is MIT; all its pretrained weights are for non-commercial research only. Its own download has no
checksum and takes a partial folder for a whole pack, so files are taken from its model folder and checked here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import Licence
from sdk.errors import ExportError

Role = Literal["landmark", "detector"]
TERMS = "non-commercial research only (insightface)"


@dataclass(frozen=True)
class KnownNetwork:
    """A file that insightface released, by SHA-256 and size in bytes."""

    name: str
    role: Role
    sha256: str
    size: int


KNOWN = (
    KnownNetwork(
        "2d106det.onnx", "landmark", "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf", 5_030_888
    ),
    KnownNetwork(
        "det_10g.onnx", "detector", "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", 16_923_827
    ),
)
_LANDMARKS = "2d106det.onnx"  # in every pack
_DETECTORS = {
    "buffalo_l": "det_10g.onnx",
    "buffalo_m": "det_2.5g.onnx",
    "buffalo_s": "det_500m.onnx",
    "antelopev2": "scrfd_10g_bnkps.onnx",
}
UNSTATED = "not known; ask its maker"


def find_model(name: str, role: Role) -> Path:
    """The file that a user means by a path or by the name of a pack.

    Args:
        name: path of an ONNX file, or e.g. "buffalo_l".
        role: which network of the pack.

    Raises:
        ExportError: no such file; the pack is not there or not whole; nothing is known to check its file by.
    """
    if name not in _DETECTORS:
        path = Path(name)
        if not path.is_file():
            packs = ", ".join(_DETECTORS)
            raise ExportError(f"{role} model {name} does not exist; expected an ONNX file or one of {packs}")
        return path
    folder = Path(os.environ.get("INSIGHTFACE_HOME", "~/.insightface")).expanduser() / "models" / name
    path = folder / (_LANDMARKS if role == "landmark" else _DETECTORS[name])
    known = next((network for network in KNOWN if network.name == path.name), None)
    if known is None:
        raise ExportError(
            f"no SHA-256 is known for {path.name}, the {role} network of {name}, so a pack cannot be checked; pass "
            f"the file itself if you trust it ({path}), or buffalo_l"
        )
    if not path.is_file():
        raise ExportError(
            f"{folder} holds no {path.name}; fetch the pack once with insightface: "
            f"insightface.app.FaceAnalysis({name!r}), or pass the file"
        )
    if path.stat().st_size != known.size or file_sha256(path) != known.sha256:
        raise ExportError(
            f"{path} is not the file that insightface released (SHA-256 differs): its download was cut off or it was "
            f"changed; delete {folder} and fetch the pack again"
        )
    return path


def licence_of(path: Path, role: Role) -> Licence:
    """Origin and terms of a network's weights: insightface's are known by hash or name, others may state theirs."""
    digest = file_sha256(path)
    names = {network.sha256: network.name for network in KNOWN}
    part = f"{role} network"
    if digest in names or path.name in (_LANDMARKS, *_DETECTORS.values()):
        origin = f"insightface {names.get(digest, path.name)}, SHA-256 {digest[:12]}"
        return Licence(part=part, origin=origin, licence=TERMS)
    stated = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    terms = stated.get("licence", UNSTATED)
    return Licence(part=part, origin=f"{path.name}, SHA-256 {digest[:12]}", licence=terms)


def check_terms(path: Path, role: Role, accepted: bool) -> None:
    """Refuse weights with a non-commercial licence until the user has accepted it.

    Raises:
        ExportError: names the licence and the option.
    """
    licence = licence_of(path, role)
    if licence.licence == TERMS and not accepted:
        raise ExportError(
            f"{path.name} is for {licence.licence}; pass --accept-noncommercial if your use is, or another network"
        )
