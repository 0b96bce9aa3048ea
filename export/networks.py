"""The landmark network and the detector of a bundle: check the interface and the licence of their files."""

from pathlib import Path

import onnx

from sdk.bundles import insightface_packs
from sdk.bundles.files import file_sha256
from sdk.bundles.insightface_packs import Role
from sdk.bundles.manifest import Licence
from sdk.errors import ExportError
from sdk.faces.preprocess import LANDMARK_SIDE

TERMS = "non-commercial research only (insightface)"
UNSTATED = "not known; ask its maker"


def licence_of(path: Path, role: Role) -> Licence:
    """The origin and terms of a network: insightface's by hash or name, other networks' as their metadata states."""
    digest = file_sha256(path)
    names = {network.sha256: network.name for network in insightface_packs.KNOWN}
    part = f"{role} network"
    if digest in names or path.name in (insightface_packs.LANDMARKS, *insightface_packs.DETECTORS.values()):
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
