"""Arithmetic that suits this machine: the type of the numbers, the device, and whether all weights fit at once."""

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from sdk.errors import CheckpointError
from sdk.system_memory import available_memory

Device = Literal["auto", "cpu", "cuda"]
SMALL_WEIGHTS = (2 << 30) // 4  # a model of fewer weights is computed in float32: 2 GB
_GPU_RESERVE = 6 << 30  # for CUDA, activations and the KV caches of eight records at 7B
_CPU_RESERVE = 2 << 30  # for libraries, activations and the KV caches of two records at 7B


@dataclass(frozen=True)
class Arithmetic:
    """How a model is computed.

    Attributes:
        dtype: of weights and activations.
        device: "cpu" or "cuda".
        layerwise: memory holds one decoder layer at a time; weights are read from the files whenever it runs.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    layerwise: bool = False

    @property
    def fills_memory(self) -> bool:
        """Whether the weights of a large model leave room for the KV caches of few sequences: 14 of 16 GB at 7B."""
        return self.device == "cpu" and self.dtype == torch.bfloat16 and not self.layerwise

    def __str__(self) -> str:
        where = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        how = ", layer by layer" if self.layerwise else ""
        return f"{str(self.dtype).removeprefix('torch.')} on {where}{how}"


def choose_arithmetic(weights: int, stored: torch.dtype, device: Device = "auto", *, exact: bool = False) -> Arithmetic:
    """Choose an arithmetic in which a model fits into memory and an answer takes seconds to minutes.

    A small model is computed in float32 on the CPU. A large one goes to the GPU if it fits, in the 16-bit type it is
    stored in. A CPU takes bfloat16 if it multiplies it and the model fits; else float32, layer by layer. float16 is no
    choice there: its products take three times as long as float32.

    bfloat16 keeps 8 significant bits: each rounding is up to 0.4 % wrong, and the logits of two layers of the 7B shape
    were 1.7 % from those in float32. That hides in the error of 4-bit weights, not in that of a float32 graph.

    Args:
        weights: number of weights of the model.
        stored: type of the decoder's weights in the files.
        device: "cuda" never falls back to the CPU.
        exact: compute in float32 at any size, on the CPU layer by layer.

    Raises:
        CheckpointError: `device` is "cuda", and torch has no CUDA or the model does not fit.
    """
    small = weights <= SMALL_WEIGHTS
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("this machine or this build of torch has no CUDA; leave the device at auto or cpu")
    if device == "cuda" or (device == "auto" and not small and torch.cuda.is_available()):
        dtype = torch.float32 if small or exact else _half_type(stored)
        needed, free = dtype.itemsize * weights + _GPU_RESERVE, torch.cuda.mem_get_info()[0]
        if needed <= free:
            return Arithmetic(dtype, "cuda")
        if device == "cuda":
            raise CheckpointError(
                f"the model needs about {needed / 1e9:.1f} GB on the GPU, {free / 1e9:.1f} GB are free; compute on the "
                "cpu"
            )
    if small:
        return Arithmetic()
    fits = torch.bfloat16.itemsize * weights + _CPU_RESERVE <= available_memory()
    return Arithmetic(torch.bfloat16) if fits and multiplies_bfloat16() and not exact else Arithmetic(layerwise=True)


def _half_type(stored: torch.dtype) -> torch.dtype:
    """The 16-bit type that a GPU computes a model in; float16 is the more exact one for weights stored in it."""
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if stored == torch.float16 or not native else torch.bfloat16


def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor; emulation is many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attend_plainly(*models: PreTrainedModel) -> None:
    """Compute attention as matrix products and a softmax, for training in bfloat16 on a processor.

    There the backward pass of PyTorch's fused kernel (2.13) takes eight times as long.
    """
    for model in models:
        model.set_attn_implementation("eager")
