"""The landmark network and the detector of a bundle: find the file, check its interface and its licence.

The code of insightface is MIT; all its pretrained weights are for non-commercial research only. Its download verifies
no checksum and accepts an incomplete folder as a pack, so files are taken from its model folder and their hashes are
checked here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import Licence
from sdk.errors import ExportError
from sdk.faces.preprocess import LANDMARK_SIDE

Role = Literal["landmark", "detector"]
TERMS = "non-commercial research only (insightface)"


@dataclass(frozen=True)
class KnownNetwork:
    """A file that insightface released.

    Attributes:
        name: of the file.
        role: of the network.
        sha256: of the file.
        size: of the file in bytes.
    """

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
    """Find the file of a network by its path or by the name of a pack.

    Args:
        name: path of an ONNX file, or a pack such as "buffalo_l".
        role: of the network in the pack.

    Raises:
        ExportError: there is no such file; the pack is missing or incomplete; the hash of its file is unknown.
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
            f"no SHA-256 is known for {path.name}, the {role} network of {name}, so the pack cannot be checked; pass "
            f"the file itself if you trust it ({path}), or buffalo_l"
        )
    if not path.is_file():
        raise ExportError(
            f"{folder} holds no {path.name}; fetch the pack once with insightface: "
            f"insightface.app.FaceAnalysis({name!r}), or pass the file"
        )
    if path.stat().st_size != known.size or file_sha256(path) != known.sha256:
        raise ExportError(
            f"{path} is not the file that insightface released (SHA-256 differs): its download was interrupted or it "
            f"was changed; delete {folder} and fetch the pack again"
        )
    return path


def licence_of(path: Path, role: Role) -> Licence:
    """The origin and terms of a network: insightface's by hash or name, other networks' as their metadata states."""
    digest = file_sha256(path)
    names = {network.sha256: network.name for network in KNOWN}
    part = f"{role} network"
    if digest in names or path.name in (_LANDMARKS, *_DETECTORS.values()):
        origin = f"insightface {names.get(digest, path.name)}, SHA-256 {digest[:12]}"
        return Licence(part=part, origin=origin, licence=TERMS)
    stated = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    terms = stated.get("licence", UNSTATED)
    return Licence(part=part, origin=f"{path.name}, SHA-256 {digest[:12]}", licence=terms)


def check_terms(path: Path, role: Role, accepted: bool) -> Licence:
    """Check that a licence which forbids commercial use was accepted.

    Args:
        path: of the network.
        role: of the network.
        accepted: the user accepts such a licence.

    Returns:
        The licence of the network.

    Raises:
        ExportError: it was not accepted; the message names the licence and the option.
    """
    licence = licence_of(path, role)
    if licence.licence == TERMS and not accepted:
        raise ExportError(
            f"{path.name} is for {licence.licence}; if your use is non-commercial, pass --accept-noncommercial; "
            "otherwise pass another network"
        )
    return licence


def check_landmark_model(path: Path, size: int) -> None:
    """Check that an ONNX file has the interface of 2d106det.

    Args:
        path: of the network.
        size: length of the landmark feature.

    Raises:
        ExportError: it does not take (N, 3, 192, 192) and give (N, size); the message says what it takes and gives.
    """
    if not path.is_file():
        raise ExportError(f"landmark model {path} does not exist; expected an ONNX file")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # the type that protobuf raises is not public
        raise ExportError(f"{path} is not an ONNX file: {error}") from None
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in weights]
    outputs = [_shape(value) for value in graph.output]
    if [shape[1:] for shape in inputs] != [(3, LANDMARK_SIDE, LANDMARK_SIDE)] or [s[-1:] for s in outputs] != [(size,)]:
        raise ExportError(
            f"{path}: expected one input (N, 3, {LANDMARK_SIDE}, {LANDMARK_SIDE}) and one output (N, {size}) as in "
            f"2d106det.onnx; found {inputs} and {outputs}"
        )


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
