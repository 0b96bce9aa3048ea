"""What the processor of this machine can do."""

import torch


def multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products for this processor; others emulate them, many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
