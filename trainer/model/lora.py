"""The low-rank updates of an adapter folder, and the weights with them added."""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from sdk.errors import CheckpointError, DependencyError
from trainer.model.adapter_config import ADAPTER_CONFIG, read_adapter_config
from trainer.model.weights import WeightFiles

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_FACTOR = re.compile(r"^(.+)\.lora_([AB])(?:\.default)?\.weight$")


def attach_lora(decoder: LlamaForCausalLM, config: LoraConfig) -> LlamaForCausalLM:
    """Wrap a decoder in live LoRA modules; its own weights are frozen.

    Returns:
        A `PeftModel`, which forwards what it does not define itself to the decoder.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 calls transformers 5.23 by an old name
        return cast(LlamaForCausalLM, get_peft_model(decoder, config))


def load_in_4bit(decoder: LlamaForCausalLM) -> None:
    """Replace the linear layers of a decoder by bitsandbytes' 4-bit NormalFloat; LoRA is trained on top of them.

    Raises:
        DependencyError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError:
        raise DependencyError("bitsandbytes", "train4bit", "train with --load-4bit") from None
    for layer in decoder.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    quantised = Linear4bit(
                        linear.in_features,
                        linear.out_features,
                        bias=False,
                        quant_type="nf4",
                        compute_dtype=linear.weight.dtype,
                    )
                    quantised.load_state_dict(linear.state_dict())
                    setattr(parent, name, quantised)


class LoraUpdates:
    """The low-rank updates of an adapter folder: peft 0.4 to today, plain LoRA on linear layers.

    Attributes:
        config: the settings of the adapter.
        pairs: name of a weight -> (A (r, in), B (out, r)).

    Raises:
        CheckpointError: the settings are not those of plain LoRA, or the tensors do not fit them.
    """

    def __init__(self, adapter: Path) -> None:
        self.path = adapter
        self.config = read_adapter_config(adapter)
        files = [adapter / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
        found = next((path for path in files if path.is_file()), None)
        if found is None:
            raise CheckpointError(f"{adapter}: adapter_model.safetensors or adapter_model.bin is missing")
        halves: dict[str, dict[str, Tensor]] = {}
        for name, tensor in WeightFiles([found]).items():
            match = _FACTOR.match(name)
            if not match:
                raise CheckpointError(f"{found}: {name} is not a LoRA weight")
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
        broken = [name for name, pair in halves.items() if len(pair) < 2]
        if broken:
            raise CheckpointError(f"{found}: {broken[0]} has only one of its LoRA factors A and B")
        self.pairs = {name: (pair["A"], pair["B"]) for name, pair in halves.items()}
        for name, (low, high) in self.pairs.items():
            rank = self.config.rank_of(_module(name))
            if low.ndim != 2 or high.ndim != 2 or (len(low), high.shape[1]) != (rank, rank):
                raise CheckpointError(
                    f"{adapter}: {ADAPTER_CONFIG} says rank {rank} for {name}, its factors are {tuple(low.shape)} and "
                    f"{tuple(high.shape)}: the two files are of different adapters; copy the folder again"
                )

    def scale(self, name: str) -> float:
        """The factor of B @ A of a weight."""
        return self.config.scale_of(_module(name))

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare with the weights of a base, by name and shape.

        Raises:
            CheckpointError: an update is missing, fits no weight or has another shape.
        """
        layers = (name for name in shapes if name.startswith("language_model.model.layers."))
        expected = {name for name in layers if self.config.targets_module(_module(name))}
        wrong = sorted(expected ^ set(self.pairs))
        if wrong:
            state = "is missing in the adapter" if wrong[0] in expected else "is not a target of the adapter"
            raise CheckpointError(f"{self.path}: {wrong[0]} {state} ({len(wrong)} weights in all)")
        for name, (low, high) in self.pairs.items():
            update = (len(high), low.shape[1])
            if update != shapes[name]:
                raise CheckpointError(
                    f"{self.path}: {name} updates a weight of {update}, the base has {shapes[name]}: the adapter "
                    "was made for another base"
                )


def _module(name: str) -> str:
    """The module of a weight, named as in Hugging Face's Llama."""
    return name.removeprefix("language_model.").removesuffix(".weight")


class MergedWeights(Mapping[str, Tensor]):
    """The frozen weights with the low-rank updates added."""

    def __init__(self, frozen: Mapping[str, Tensor], lora: LoraUpdates) -> None:
        self._frozen, self._lora = frozen, lora

    def __getitem__(self, name: str) -> Tensor:
        weight = self._frozen[name]
        if name not in self._lora.pairs:
            return weight
        low, high = self._lora.pairs[name]
        merged: Tensor = weight.float() + self._lora.scale(name) * (high.float() @ low.float())
        return merged.to(weight.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._frozen)

    def __len__(self) -> int:
        return len(self._frozen)
