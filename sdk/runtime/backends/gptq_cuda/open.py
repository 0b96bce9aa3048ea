"""Open the GPTQ decoder on an NVIDIA GPU. torch and Triton are imported inside the functions."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, DependencyError
from sdk.printable import one_line

if TYPE_CHECKING:
    from .decoder import GptqDecoder

_MIN_FREE_RATIO = 3  # dense weights are kept if this many times their size is free


def check_gpu() -> None:
    """Check for torch, Triton and a GPU of compute capability 8.0 or later, before anything is opened.

    Raises:
        DependencyError: a package is missing; the message names the extra to install.
        BackendError: there is no such GPU, or this torch was built without CUDA.
    """
    for package in ("torch", "triton", "safetensors"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise DependencyError(package, "gptq", "decode GPTQ weights on an NVIDIA GPU") from None
    import torch

    if not torch.cuda.is_available():
        found = "this torch was built without CUDA" if torch.version.cuda is None else "there is no NVIDIA GPU"
        raise BackendError(f"torch {torch.__version__} finds no CUDA: {found}; `emola export` makes variants without")
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        name, version = torch.cuda.get_device_name(), ".".join(map(str, capability))
        raise BackendError(f"{name} has compute capability {version}; the kernels need 8.0 or later")


def open_decoder(
    folder: Path, embeddings: Path, geometry: Geometry, device: str, room: int | None = None
) -> "GptqDecoder":
    """Open the decoder of a GPTQ folder.

    Args:
        embeddings: `.npy` token embeddings (vocabulary, D).
        geometry: shape of the decoder.
        device: "cuda", or "cpu" for the reference kernels in float32.
        room: bytes that dense weights may take; None: only the free memory of the GPU limits them.

    Raises:
        BackendError: the kernels do not support the weights, the weights do not fit, or no kernel can be launched.
        IntegrityError: files or tensors are missing or damaged.
    """
    import torch

    from .decoder import GptqDecoder, memory_errors
    from .weights import read_llama

    on_gpu = device == "cuda"
    kernels = importlib.import_module(f"{__package__}.{'kernels' if on_gpu else 'reference'}")
    dtype = torch.float16 if on_gpu else torch.float32
    table = read_embeddings(embeddings, geometry)
    with memory_errors():
        _launch_once(kernels, device)
        llama = read_llama(folder, geometry, torch.from_numpy(np.array(table)), device, dtype)
        dense = llama.dense_bytes(dtype)
        keep = _free_bytes(device) > _MIN_FREE_RATIO * dense and (room is None or dense <= room)
        return GptqDecoder(llama, kernels, table, dtype=dtype, keep_dense=keep, graphs=on_gpu)


def _free_bytes(device: str) -> int:
    """Free bytes of GPU memory; 0 on a CPU."""
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0


def _launch_once(kernels: ModuleType, device: str) -> None:
    """Run one small kernel before gigabytes are read, because Triton compiles its launcher at the first launch.

    Raises:
        BackendError: the launch failed; the message says what it needs.
    """
    import torch

    from .decoder import is_out_of_memory
    from .weights import PANEL, Linear4

    try:
        values = torch.zeros(1, 16, PANEL, dtype=torch.int32, device=device)
        panel = Linear4(values, torch.zeros(1, 1, PANEL, dtype=torch.float16, device=device))
        weight = torch.empty(panel.inputs, panel.outputs, dtype=torch.float16, device=device)
        kernels.dequantise(panel, weight)
        weight[0, 0].item()  # waits for the GPU, which reports errors late
    except Exception as error:  # Triton, its compilers, the file system of its cache or the driver raise many types
        if is_out_of_memory(error):
            raise
        found = f"{type(error).__name__}: {one_line(error)}"
        raise BackendError(
            f"the first GPU kernel failed ({found}); Triton needs a C compiler, Python's headers and a folder for its "
            "cache (TRITON_CACHE_DIR): install gcc and python3-dev (Debian's names), or use another variant"
        ) from error
