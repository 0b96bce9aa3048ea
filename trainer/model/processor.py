"""What the processor of this machine can do."""

import torch
from transformers import PreTrainedModel


def multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products for this processor; others emulate them, many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attend_plainly(*models: PreTrainedModel) -> None:
    """Attention as matrix products and a softmax, for training in bfloat16 on a processor.

    There the backward pass of PyTorch's fused kernel (2.13) takes eight times as long.
    """
    for model in models:
        model.set_attn_implementation("eager")
