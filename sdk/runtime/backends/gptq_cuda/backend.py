"""The bundle with its GPTQ decoder on an NVIDIA GPU through torch and Triton; the encoders stay with ONNX Runtime."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.bundles.manifest import Manifest, Variant
from sdk.errors import BackendError, DependencyError
from sdk.runtime.backends.ort import OrtBackend, has_cuda, load_embeddings

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


class GptqBackend(OrtBackend):
    """Encoders on ONNX Runtime, on CUDA where it has that; decoder on this package's kernels.

    Args:
        device: "cuda", or "cpu" for the reference kernels in float32, which are slow.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        variant: Variant,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        self._decoder_device = device or variant.device
        if self._decoder_device == "cuda":
            check_gpu()
        super().__init__(bundle, manifest, variant, threads, "cuda" if device != "cpu" and has_cuda() else "cpu")

    def _open_decoder(self, bundle: Path, manifest: Manifest, variant: Variant, **where: Any) -> "GptqDecoder":
        folder = (bundle / variant.decoder).parent
        return open_decoder(folder, bundle / manifest.embeddings, manifest, self._decoder_device)


def open_decoder(folder: Path, embeddings: Path, manifest: Manifest, device: str) -> "GptqDecoder":
    """The decoder of a GPTQ folder.

    Args:
        embeddings: `.npy` token embeddings (vocabulary, D).
        manifest: for the geometry.
        device: "cuda", or "cpu" for the reference kernels in float32.
    """
    import torch

    from .decoder import GptqDecoder
    from .weights import read_llama

    on_gpu = device == "cuda"
    kernels = importlib.import_module(f"{__package__}.{'kernels' if on_gpu else 'reference'}")
    dtype = torch.float16 if on_gpu else torch.float32
    table = load_embeddings(embeddings, manifest.geometry)
    llama = read_llama(folder, manifest.geometry, torch.from_numpy(np.array(table)), device, dtype)
    dense = 2 * sum(linear.inputs * linear.outputs for layer in llama.layers for linear in layer.linears)
    keep = on_gpu and torch.cuda.mem_get_info()[0] > _ROOM_FOR_DENSE * dense
    return GptqDecoder(llama, kernels, table, dtype=dtype, keep_dense=keep, graphs=on_gpu)
