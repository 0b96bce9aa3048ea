"""The weight files that insightface released, found by the name of a pack and checked by their hashes.

Its download verifies no checksum and accepts an incomplete folder as a pack, so files are taken from its model folder
and checked here. Its code is MIT; all its pretrained weights are for non-commercial research only.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdk.bundles.files import file_sha256
from sdk.errors import SdkError

Role = Literal["landmark", "detector"]


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
LANDMARKS = "2d106det.onnx"  # in every pack
DETECTORS = {
    "buffalo_l": "det_10g.onnx",
    "buffalo_m": "det_2.5g.onnx",
    "buffalo_s": "det_500m.onnx",
    "antelopev2": "scrfd_10g_bnkps.onnx",
}


def find_model(name: str, role: Role, error: type[SdkError]) -> Path:
    """Find the file of a network by its path or by the name of a pack.

    Args:
        name: path of an ONNX file, or a pack such as "buffalo_l".
        role: of the network in the pack.
        error: type of the error to raise.

    Raises:
        SdkError: of type `error`; there is no such file, the pack is missing or incomplete, or the hash of its file is
            unknown.
    """
    if name not in DETECTORS:
        path = Path(name)
        if not path.is_file():
            packs = ", ".join(DETECTORS)
            raise error(f"{role} model {name} does not exist; expected an ONNX file or one of {packs}")
        return path
    folder = Path(os.environ.get("INSIGHTFACE_HOME", "~/.insightface")).expanduser() / "models" / name
    path = folder / (LANDMARKS if role == "landmark" else DETECTORS[name])
    known = next((network for network in KNOWN if network.name == path.name), None)
    if known is None:
        raise error(
            f"no SHA-256 is known for {path.name}, the {role} network of {name}, so the pack cannot be checked; pass "
            f"the file itself if you trust it ({path}), or buffalo_l"
        )
    if not path.is_file():
        raise error(
            f"{folder} holds no {path.name}; fetch the pack once with insightface: "
            f"insightface.app.FaceAnalysis({name!r}), or pass the file"
        )
    if path.stat().st_size != known.size or file_sha256(path) != known.sha256:
        raise error(
            f"{path} is not the file that insightface released (SHA-256 differs): its download was interrupted or it "
            f"was changed; delete {folder} and fetch the pack again"
        )
    return path
