"""Choose the backend that opens a bundle on this machine. Encoders and decoder are chosen independently."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from sdk.bundles.files import ENGINES
from sdk.bundles.manifest import Manifest, Variant
from sdk.bundles.watch import WatchedFiles
from sdk.errors import BackendError, DependencyError, GraphError
from sdk.faces.preprocess import LANDMARK_FEATURES, LANDMARK_SIDE
from sdk.onnx_session import check_cuda, has_cuda
from sdk.runtime.backends import ort
from sdk.runtime.backends.cpu_choice import prefill_bytes, reads_faster, reason_for_onnxruntime
from sdk.runtime.backends.gptq_cuda.open import check_gpu, open_decoder
from sdk.runtime.backends.interface import Backend, Decoder, Encoder
from sdk.runtime.memory import Memory, fitting_variants, positions_per_face

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino", "openvino-prefill")
OpenVino: TypeAlias = Literal["no", "prefill", "decoder"]  # what of a decoder it runs
_ON_OPENVINO: Mapping[str, OpenVino] = {"openvino": "decoder", "openvino-prefill": "prefill"}

logger = logging.getLogger(__name__)


class Runtimes(NamedTuple):
    """What opens a variant in place of the runtime that it was exported for.

    Attributes:
        engines: the TensorRT engines that `emola engines` built are its encoders.
        openvino: OpenVINO runs its decoder, the prefill of it, or nothing.
    """

    engines: bool = False
    openvino: OpenVino = "no"


AS_EXPORTED = Runtimes()


class RuntimeChoiceError(BackendError):
    """What was chosen for a variant cannot open it; another choice may."""


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
    _check_name(device)
    refused = []
    for variant in fitting_variants(manifest, memory_limit, image_rows):
        memory = Memory.of(manifest, variant, image_rows)
        room = None if memory_limit is None else memory_limit - memory.weights - memory.per_face
        for runtimes in _choices(bundle, manifest, variant, device, room):
            try:
                backend = open_variant(bundle, manifest, variant, runtimes=runtimes, threads=threads, room=room)
            except (BackendError, DependencyError) as error:
                if isinstance(error, GraphError):
                    raise  # a damaged file is no reason to take another variant
                refused.append(f"{_name(variant, runtimes)}: {error}")
                if not isinstance(error, RuntimeChoiceError):
                    break  # another choice would not help
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


def open_with_vllm(
    bundle: Path,
    manifest: Manifest,
    device: str,
    where: str,
    *,
    threads: int | None = None,
    image_rows: int | None = None,
) -> Backend:
    """Open the encoders of a bundle, and vLLM for its decoder.

    Args:
        device: of the encoders, one of DEVICES except those of OpenVINO, which are for decoders.
        where: address of a vLLM server that runs the decoder of this bundle, or "local" for vLLM in this process.
        threads, image_rows: as in `open_backend`.

    Raises:
        BackendError, DependencyError: vLLM or the encoders cannot be opened.
    """
    from sdk.runtime.backends.vllm.open import open_vllm

    _check_name(device)
    if device in _ON_OPENVINO:
        raise BackendError(
            "OpenVINO and vLLM cannot both decode: with vLLM, device is that of the encoders, such as cpu"
        )
    if device == "cuda":
        check_cuda()
    target = "cuda" if device == "cuda" or (device == "auto" and has_cuda()) else "cpu"
    nothing_else = {"name": "vllm", "decoder": manifest.embeddings, "external": (), "device": target}
    variant = manifest.variants[0].model_copy(update=nothing_else)
    files = WatchedFiles(bundle, manifest.files)
    for engines in _encoder_choices(bundle, device):
        try:
            encoders, tolerances = _open_encoders(bundle, manifest, variant, target, engines, threads)
            break
        except RuntimeChoiceError as error:
            if device != "auto":
                raise
            logger.info("no TensorRT engines: %s", error)
    decoder = open_vllm(bundle, manifest, where, positions_per_face(manifest, image_rows))
    return Backend(
        encoders.get("landmark"),
        encoders["vision"],
        decoder,
        variant,
        name=_name(variant, Runtimes(engines=engines)),
        tolerances=tolerances,
        on_gpu=engines or target == "cuda",
        files=files,
    )


def open_variant(
    bundle: Path,
    manifest: Manifest,
    variant: Variant,
    *,
    device: str | None = None,
    runtimes: Runtimes = AS_EXPORTED,
    threads: int | None = None,
    room: int | None = None,
) -> Backend:
    """Open one variant. The encoders are chosen independently of the decoder.

    Args:
        device: "cpu" or "cuda"; None is the device of the variant.
        runtimes: what opens it.
        threads: as in `open_backend`.
        room: bytes that the decoder may take in addition to the size of its files; None is no limit.

    Raises:
        BackendError: the variant does not run on this machine.
        DependencyError: a package is missing.
    """
    device = device or variant.device
    _check_device(variant, device)
    files = WatchedFiles(bundle, manifest.files)
    encoders, tolerances = _open_encoders(bundle, manifest, variant, device, runtimes.engines, threads)
    decoder = _open_decoder(bundle, manifest, variant, device, runtimes.openvino, threads, room)
    return Backend(
        encoders.get("landmark"),
        encoders["vision"],
        decoder,
        variant,
        decoder.held_bytes,
        name=_name(variant, runtimes),
        tolerances=tolerances,
        on_gpu=runtimes.engines or device == "cuda",
        files=files,
    )


def _check_name(device: str) -> None:
    if device not in DEVICES:
        raise BackendError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")


def _name(variant: Variant, runtimes: Runtimes) -> str:
    names: Mapping[OpenVino, str] = {
        "prefill": f"openvino-prefill+{variant.name}",
        "decoder": f"openvino-{variant.precision}",
    }
    decoder = names.get(runtimes.openvino, variant.name)
    return f"tensorrt+{decoder}" if runtimes.engines else decoder


def _choices(bundle: Path, manifest: Manifest, variant: Variant, device: str, room: int | None) -> Sequence[Runtimes]:
    """What can open a variant, in the order to try; empty if the variant is for another device."""
    on_openvino = variant.backend == "ort" and variant.device == "cpu"
    if device in _ON_OPENVINO:
        return (Runtimes(openvino=_ON_OPENVINO[device]),) if on_openvino else ()
    if device in ("cpu", "cuda"):
        return (AS_EXPORTED,) if variant.device == device else ()
    decoders: Sequence[OpenVino] = ("no",)
    if device == "auto" and on_openvino:
        against = reason_for_onnxruntime(manifest, variant)
        if against is None:
            decoders = ("decoder", "no")
        elif reads_faster(manifest, variant, room):
            decoders = ("prefill", "no")
        taken = {
            "decoder": "OpenVINO, the faster one here",
            "prefill": "OpenVINO for the prefill, within the memory limit",
        }
        logger.info("device auto takes %s", taken.get(decoders[0], f"ONNX Runtime: {against}"))
    return [Runtimes(engines, decoder) for decoder in decoders for engines in _encoder_choices(bundle, device)]


def _encoder_choices(bundle: Path, device: str) -> Sequence[bool]:
    """Whether TensorRT engines are the encoders, in the order to try."""
    if device == "auto" and (bundle / ENGINES).is_dir():
        return (True, False)
    return (device == "tensorrt",)


def _check_device(variant: Variant, device: str) -> None:
    """Check the GPU and the packages that a variant needs, before files are opened."""
    if device == "cuda" and variant.backend == "gptq_cuda":
        check_gpu()
    elif device == "cuda":
        check_cuda()


def _open_encoders(
    bundle: Path, manifest: Manifest, variant: Variant, device: str, engines: bool, threads: int | None
) -> tuple[dict[str, Encoder], Mapping[str, float]]:
    """The encoders by stage, and the relative error that each engine may have; ONNX Runtime opens the other encoders.

    Raises:
        RuntimeChoiceError: there are no engines for this machine.
    """
    encoders: dict[str, Encoder] = {}
    tolerances: Mapping[str, float] = {}
    if engines:
        from sdk.runtime.backends import tensorrt

        try:
            opened = tensorrt.open_engines(bundle, manifest)
        except (BackendError, DependencyError) as error:
            raise RuntimeChoiceError(str(error)) from error
        encoders, tolerances = dict(opened.encoders), opened.tolerances
    for stage, path, inputs, output in _interfaces(manifest):
        if path and stage not in encoders:
            on_cuda = device == "cuda" and (variant.backend == "ort" or has_cuda())
            target = "cuda" if on_cuda else "cpu"
            encoders[stage] = ort.OrtEncoder(bundle / path, threads, target, inputs=inputs, output=output)
    return encoders, tolerances


def _interfaces(manifest: Manifest) -> Iterator[tuple[str, str | None, Sequence[ort.Shape], ort.Shape]]:
    """Stage, file, shapes of the inputs and shape of the output of both encoders."""
    size = manifest.preprocessing.image_size
    yield "landmark", manifest.landmark, [(3, LANDMARK_SIDE, LANDMARK_SIDE)], (LANDMARK_FEATURES,)
    rows = manifest.prompt.image_rows, manifest.geometry.hidden_size
    yield "vision", manifest.vision, [(3, size, size), (LANDMARK_FEATURES,)], rows


def _open_decoder(
    bundle: Path,
    manifest: Manifest,
    variant: Variant,
    device: str,
    on_openvino: OpenVino,
    threads: int | None,
    room: int | None,
) -> Decoder:
    path, embeddings = bundle / variant.decoder, bundle / manifest.embeddings
    if on_openvino != "no":
        from sdk.runtime.backends import openvino, openvino_prefill

        given = path, embeddings, manifest.geometry, threads
        try:
            if on_openvino == "decoder":
                return openvino.OpenVinoDecoder(*given)
            return openvino_prefill.PrefillDecoder(*given, copy_bytes=prefill_bytes(manifest, variant))
        except (BackendError, DependencyError) as error:
            if isinstance(error, GraphError):
                raise
            raise RuntimeChoiceError(str(error)) from error
    if variant.backend == "ort":
        return ort.OrtDecoder(path, embeddings, manifest.geometry, threads, device)
    return open_decoder(path.parent, embeddings, manifest.geometry, device, room)
