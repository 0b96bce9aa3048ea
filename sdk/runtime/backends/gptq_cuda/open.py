"""Open the GPTQ decoder on an NVIDIA GPU, through torch and Triton; torch is imported inside the functions."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, DependencyError

if TYPE_CHECKING:
    from .decoder import GptqDecoder

_ROOM_FOR_DENSE = 3  # times the size of the dense weights must be free for them to be kept


def check_gpu() -> None:
    """Refuse a machine without torch, Triton or a GPU of compute capability 8.0, before anything is opened.

    Raises:
        DependencyError: names the extra to install.
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
    """The decoder of a GPTQ folder.

    Args:
        embeddings: `.npy` token embeddings (vocabulary, D).
        geometry: of the decoder.
        device: "cuda", or "cpu" for the reference kernels in float32.
        room: bytes that dense weights may take; None: the GPU's free memory alone decides.

    Raises:
        BackendError: the weights are of a kind that the kernels do not compute, do not fit, or nothing can be launched.
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
        keep = _free_bytes(device) > _ROOM_FOR_DENSE * dense and (room is None or dense <= room)
        return GptqDecoder(llama, kernels, table, dtype=dtype, keep_dense=keep, graphs=on_gpu)


def _free_bytes(device: str) -> int:
    """Of GPU memory; none on a CPU."""
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0


def _launch_once(kernels: ModuleType, device: str) -> None:
    """Dequantise one panel of zeros, before gigabytes are read: Triton builds its launcher with a C compiler only now.

    Raises:
        BackendError: says what the launch needs.
    """
    import torch

    from .decoder import is_full
    from .weights import PANEL, Linear4

    try:
        values = torch.zeros(1, 16, PANEL, dtype=torch.int32, device=device)
        panel = Linear4(values, torch.zeros(1, 1, PANEL, dtype=torch.float16, device=device))
        weight = torch.empty(panel.inputs, panel.outputs, dtype=torch.float16, device=device)
        kernels.dequantise(panel, weight)
        weight[0, 0].item()  # waits for the GPU, whose errors come late
    except Exception as error:  # of Triton, its compilers, the file system of its cache or the driver
        if is_full(error):
            raise
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BackendError(
            f"the first GPU kernel failed ({found}); Triton needs a C compiler, Python's headers and a folder for its "
            "cache (TRITON_CACHE_DIR): install gcc and python3-dev (Debian's names), or use another variant"
        ) from error
