"""A checkpoint in the parts that an export reads: the encoders as a torch module, the decoder's weights and shape."""

from collections.abc import Iterator, Mapping

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sdk.arrays import Floats
from sdk.bundles.manifest import Geometry
from trainer.checkpoint import Checkpoint
from trainer.model.config import EmolaConfig
from trainer.model.emola import EmoLA
from trainer.model.weights import canonical_name

_PREFIX = "language_model."


class VisionModule(nn.Module):
    """`EmoLA.encode` as a torch module without the weights of the decoder.

    Args:
        checkpoint: complete, with LoRA merged.
        dtype: of weights and arithmetic.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with init_empty_weights(include_buffers=False):
            self.emola = EmoLA(checkpoint.config)
        del self.emola.language_model
        names = self.emola.state_dict()
        weights = {name: checkpoint.merged[canonical_name(name) or name].to(dtype) for name in names}
        self.emola.load_state_dict(weights, assign=True)
        self.eval()

    def forward(self, pixel_values: Tensor, landmark_features: Tensor) -> Tensor:
        """Encode faces.

        Args:
            pixel_values: (B, 3, H, H) normalised pixels.
            landmark_features: (B, L) output of the landmark network.

        Returns:
            (B, rows, D) float32 input rows of the decoder.
        """
        return self.emola.encode(pixel_values, landmark_features).float()

    def bytes(self) -> int:
        """Size of all weights."""
        return sum(parameter.nbytes for parameter in self.parameters())


class DecoderWeights(Mapping[str, Floats]):
    """The decoder's weights as float32 arrays, by their names in Hugging Face's Llama, read one at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._weights = checkpoint.merged

    def __getitem__(self, name: str) -> Floats:
        array: Floats = self._weights[f"{_PREFIX}{name}"].float().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(_PREFIX) for name in self._weights if name.startswith(_PREFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def decoder_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of the decoder by its name in Hugging Face's Llama."""
    with torch.device("meta"):
        return {name: tuple(w.shape) for name, w in LlamaForCausalLM(checkpoint.config.text).state_dict().items()}


def geometry(config: EmolaConfig) -> Geometry:
    """The shape of the decoder as the manifest records it."""
    text = config.text
    return Geometry(
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=text.head_dim,
        vocabulary=text.vocab_size,
        context=min(text.max_position_embeddings, config.max_length),
        intermediate_size=text.intermediate_size,
    )


def rope_theta(text: LlamaConfig) -> float:
    """The base of the rotary embedding."""
    theta: float = dict(text.rope_parameters or {})["rope_theta"]
    return theta
