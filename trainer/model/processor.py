"""Settings that depend on the processor of this machine."""

import torch
from transformers import PreTrainedModel


def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor; emulation is many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attend_plainly(*models: PreTrainedModel) -> None:
    """Compute attention as matrix products and a softmax, for training in bfloat16 on a processor.

    There the backward pass of PyTorch's fused kernel (2.13) takes eight times as long.
    """
    for model in models:
        model.set_attn_implementation("eager")
