"""ONNX Runtime or OpenVINO: which of them device "auto" uses on a CPU, and why."""

from importlib.util import find_spec

from sdk.bundles.manifest import Manifest, Variant
from sdk.errors import DependencyError
from sdk.runtime.memory import Memory

_LARGE = 256 << 20  # bytes of a decoder for which docs/performance.md shows a gain
# Layers, and the tokens about a face up to which faster prompts outweigh slower steps; measured: docs/performance.md
_BREAK_EVEN = ((4, 390), (32, 75))
_TOKENS = 340  # of both answers about a face: FABA-Instruct's have 50 and 207 words on average (EmoLA, Table 2)


def tokens_gained(layers: int) -> int:
    """Number of tokens about a face up to which OpenVINO is faster than ONNX Runtime, both prompts included.

    Decoders of Vicuna-7B's layers were measured with 4 and with 32 of them, on processors with AVX-512 and bfloat16.
    """
    (few, most), (many, least) = _BREAK_EVEN
    depth = min(max((layers - few) / (many - few), 0.0), 1.0)
    return round(most + depth * (least - most))


def reason_against_openvino(size: int, layers: int, tokens: int = _TOKENS) -> str | None:
    """Why ONNX Runtime is expected to give whole answers sooner on this machine; None if OpenVINO is.

    Args:
        size: bytes of the decoder's files.
        layers: of the decoder.
        tokens: of all answers about a face.
    """
    if size < _LARGE:
        return "OpenVINO steps a small decoder more slowly"
    if tokens > (gained := tokens_gained(layers)):
        return f"with {layers} layers OpenVINO is slower from {gained} tokens per face on, and two answers have more"
    if not find_spec("openvino"):
        return "OpenVINO is not installed"
    from sdk.runtime.backends.openvino_graph import load_openvino

    try:
        capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (DependencyError, RuntimeError):
        return "the libraries of OpenVINO cannot be loaded"
    return None if "BF16" in capabilities else "OpenVINO was measured to be faster on processors with bfloat16 only"


def reason_for_onnxruntime(manifest: Manifest, variant: Variant) -> str | None:
    """Why device "auto" decodes a variant for the CPU with ONNX Runtime; None if it takes OpenVINO."""
    return reason_against_openvino(manifest.decoder_bytes(variant), manifest.geometry.layers)


def reads_faster(manifest: Manifest, variant: Variant, room: int | None) -> bool:
    """Whether OpenVINO is expected to read faces faster on this machine, where ONNX Runtime decodes.

    Args:
        room: bytes that are left for it; None is not known, so the weights are not copied.
    """
    if room is None or room < prefill_bytes(manifest, variant):
        return False
    return reason_against_openvino(manifest.decoder_bytes(variant), manifest.geometry.layers, 0) is None


def prefill_bytes(manifest: Manifest, variant: Variant) -> int:
    """Memory of OpenVINO where ONNX Runtime decodes: a copy of the weights, and the face that it reads."""
    return manifest.decoder_bytes(variant) + Memory.of(manifest, variant).per_face
