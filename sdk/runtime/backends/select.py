"""Choose the backend that opens a bundle on this machine. Encoders and decoder are chosen independently."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sdk.bundles.manifest import Manifest, Variant
from sdk.errors import BackendError, DependencyError
from sdk.runtime.backends import ort, tensorrt
from sdk.runtime.backends.gptq_cuda.open import check_gpu, open_decoder
from sdk.runtime.backends.interface import Backend, Decoder, Encoder
from sdk.runtime.memory import Memory, fitting_variants

DEVICES = ("auto", "cpu", "cuda", "tensorrt")

logger = logging.getLogger(__name__)


def open_backend(
    bundle: Path,
    manifest: Manifest,
    device: str = "auto",
    *,
    threads: int | None = None,
    memory_limit: int | None = None,
    image_rows: int | None = None,
) -> Backend:
    """Open the first variant of a bundle that runs on this machine, and log its name.

    Args:
        device: one of DEVICES; only "auto" falls back to another device.
        threads: threads of one operator on the CPU; None leaves the choice to ONNX Runtime.
        memory_limit: bytes for the weights and the KV cache of at least one face; None is no limit.
        image_rows: rows of a face that the decoder reads; None reads all.

    Raises:
        BackendError: no variant runs here; the message says why for each.
    """
    if device not in DEVICES:
        raise BackendError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    refused = []
    for variant in fitting_variants(manifest, memory_limit, image_rows):
        memory = Memory.of(manifest, variant, image_rows)
        room = None if memory_limit is None else memory_limit - memory.weights - memory.per_face
        for engines in _encoder_choices(bundle, variant, device):
            try:
                backend = open_variant(bundle, manifest, variant, engines=engines, threads=threads, room=room)
            except (BackendError, DependencyError) as error:
                refused.append(f"{variant.name}: {error}")
            else:
                logger.info("opened %s on %s", bundle, "; not on ".join([backend.name, *refused]))
                return backend
    if not refused:
        names = ", ".join(variant.name for variant in manifest.variants)
        raise BackendError(
            f"{names}: no variant for device {device!r}; `emola export` adds one for NVIDIA GPUs with --cuda or "
            "--keep-gptq"
        )
    raise BackendError("no variant of this bundle runs here; " + "; ".join(refused))


def open_variant(
    bundle: Path,
    manifest: Manifest,
    variant: Variant,
    *,
    device: str | None = None,
    engines: bool = False,
    threads: int | None = None,
    room: int | None = None,
) -> Backend:
    """Open one variant. The encoders are chosen independently of the decoder.

    Args:
        device: "cpu" or "cuda"; None is the device of the variant.
        engines: use the TensorRT engines that `emola engines` built for the encoders.
        threads: as in `open_backend`.
        room: bytes that the decoder may take in addition to the size of its files; None is no limit.

    Raises:
        BackendError: the variant does not run on this machine.
        DependencyError: a package is missing.
    """
    device = device or variant.device
    _check_device(variant, device)
    where = "cuda" if device == "cuda" and (variant.backend == "ort" or ort.has_cuda()) else "cpu"
    opened = tensorrt.open_engines(bundle, manifest) if engines else None
    encoders: dict[str, Encoder] = dict(opened.encoders) if opened else {}
    for name, path in (("landmark", manifest.landmark), ("vision", manifest.vision)):
        if path and name not in encoders:
            encoders[name] = ort.OrtEncoder(bundle / path, threads, where)
    decoder = _open_decoder(bundle, manifest, variant, device, threads, room)
    return Backend(
        encoders.get("landmark"),
        encoders["vision"],
        decoder,
        variant,
        decoder.held_bytes,
        opened.tolerances if opened else {},
    )


def _encoder_choices(bundle: Path, variant: Variant, device: str) -> Sequence[bool]:
    """Whether to use TensorRT engines as encoders, in the order to try; empty if the variant is for another device."""
    if device == "tensorrt":
        return (True,)
    if device == "auto":
        return (True, False) if (bundle / tensorrt.ENGINES).is_dir() else (False,)
    return (False,) if variant.device == device else ()


def _check_device(variant: Variant, device: str) -> None:
    """Check the GPU and the packages that a variant needs, before files are opened."""
    if device == "cuda" and variant.backend == "gptq_cuda":
        check_gpu()
    elif device == "cuda":
        ort.check_cuda()


def _open_decoder(
    bundle: Path, manifest: Manifest, variant: Variant, device: str, threads: int | None, room: int | None
) -> Decoder:
    path, embeddings = bundle / variant.decoder, bundle / manifest.embeddings
    if variant.backend == "ort":
        return ort.OrtDecoder(path, embeddings, manifest.geometry, threads, device)
    return open_decoder(path.parent, embeddings, manifest.geometry, device, room)
