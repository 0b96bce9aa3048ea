"""Check the devices, the memory and the hub."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sdk.bench.machine import environment
from sdk.doctor.findings import Finding, install
from sdk.doctor.packages import check_extra
from sdk.errors import DependencyError, IntegrityError, SdkError
from sdk.system_memory import available_memory


def check_devices() -> Iterator[Finding]:
    """Yield the processor, the memory, the NVIDIA GPU, and what each extra can do with that GPU."""
    found = environment()
    cores = f"{found.get('usable cores', found['cores'])} of {found['cores']} cores"
    yield Finding("processor", "works", f"{found['processor']}, {cores}")
    free = available_memory()
    yield Finding("memory", "works", "unknown" if free == float("inf") else f"{free / 1e9:.1f} GB free")
    board = found.get("board", "")
    gpu = found.get("nvidia driver") or (board if "jetson" in board.lower() else None)
    if gpu is None:
        yield Finding("nvidia gpu", "absent", "nvidia-smi finds none; the extras gpu, gptq and tensorrt need one")
        return
    yield Finding("nvidia gpu", "works", gpu)
    yield from (_on_gpu(extra, check) for extra, check in _GPU_CHECKS.items())


def check_hub(offline: bool) -> Finding:
    """Check the folder of downloads and, unless offline, that the hub answers."""
    from sdk.bundles.hub import is_offline
    from sdk.bundles.remote import reach_hub
    from sdk.cache import cache_folder
    from sdk.web.exchange import HttpError

    try:
        cache = cache_folder()
    except SdkError as error:
        return Finding("hub", "broken", str(error), "export EMOLA_CACHE=FOLDER")
    place = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    if not os.access(place, os.W_OK):
        return Finding("hub", "broken", f"{place} cannot be written", "export EMOLA_CACHE=FOLDER")
    room = f"downloads go to {cache}, {shutil.disk_usage(place).free / 1e9:.0f} GB free"
    if is_offline(offline):
        return Finding("hub", "works", f"offline; {room}")
    if (packages := check_extra("hub")).verdict != "works":
        return Finding("hub", packages.verdict, packages.found, packages.remedy)
    try:
        return Finding("hub", "works", f"{reach_hub()} answers; {room}")
    except HttpError as error:
        advice = "check the network, HTTPS_PROXY and HF_ENDPOINT; --offline works without"
        return Finding("hub", "absent", f"{error}; {room}", advice)


def check_bundle(name: str | None, picture: Path, *, device: str, offline: bool) -> Finding:
    """Open a bundle and read a face with it.

    Args:
        name: as in `sdk.Analyzer`.
        picture: a photograph with a face.
        device: as in `sdk.Analyzer`.
        offline: never use the network.
    """
    try:
        return Finding("bundle", "works", _read_face(name, picture, device, offline))
    except DependencyError as error:
        return Finding("bundle", "broken", f"{error.package} is missing", install(error.extra))
    except SdkError as error:
        remedy = f"emola verify {name or ''}".strip() if isinstance(error, IntegrityError) else ""
        return Finding("bundle", "broken", str(error), remedy)


def _read_face(name: str | None, picture: Path, device: str, offline: bool) -> str:
    from sdk.analyzer import Analyzer
    from sdk.bundles.hub import resolve_bundle
    from sdk.bundles.manifest import read_manifest
    from sdk.runtime.backends.cpu_choice import reason_for_onnxruntime
    from sdk.runtime.memory import fitting_variants

    folder, free = resolve_bundle(name, offline=offline), available_memory()
    manifest = read_manifest(folder)
    fitting_variants(manifest, None if free == float("inf") else int(free))
    with Analyzer(folder, device=device, offline=offline) as analyzer:
        analysis = analyzer.analyze(picture, max_new_tokens=8)
        seconds = sum(analysis.timing_ms.values()) / 1000
        backend = analyzer.pipeline.backend
        against = None if backend.on_gpu or device != "auto" else reason_for_onnxruntime(manifest, backend.variant)
    where = f"{backend.name} ({against})" if against else backend.name
    return f"{analysis.model.name} on {where}: {len(analysis.faces)} face read in {seconds:.1f} s"


def _on_gpu(extra: str, check: Callable[[], str]) -> Finding:
    """Check that an extra finds the GPU; on a Jetson its packages may come from the system instead of pip."""
    try:
        return Finding(extra, "works", check())
    except SdkError as error:
        packages = check_extra(extra)
        return Finding(extra, "broken", str(error)) if packages.verdict == "works" else packages


def _onnxruntime() -> str:
    from sdk.onnx_session import check_cuda, load_onnxruntime

    check_cuda()
    return f"ONNX Runtime {load_onnxruntime().__version__} with CUDA"


def _torch() -> str:
    from sdk.runtime.backends.gptq_cuda.open import check_gpu

    check_gpu()
    return "torch finds the GPU, and Triton is here"


def _tensorrt() -> str:
    from sdk.runtime.backends.tensorrt import this_platform

    found = this_platform()
    return f"TensorRT {found.tensorrt}, CUDA {found.cuda}, compute capability {found.sm}"


_GPU_CHECKS: Mapping[str, Callable[[], str]] = {"gpu": _onnxruntime, "gptq": _torch, "tensorrt": _tensorrt}
