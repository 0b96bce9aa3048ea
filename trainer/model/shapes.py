"""The shapes of decoder and vision tower, from the checked keys of a `config.json`."""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig
from transformers.activations import ACT2FN

from sdk.errors import CheckpointError
from sdk.printable import one_line
from trainer.model.llava_keys import check_decoder, check_llava, check_tower, rotary_base

_TEXT_KEYS = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
]
_OWN = ("max_position_embeddings", "initializer_range", "bos_token_id", "eos_token_id")  # an adapter may state others
_COMPARED = [key for key in _TEXT_KEYS if key not in _OWN]
_VISION_KEYS = [
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
]


def decoder_keys(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The configuration of the decoder in that of a whole model; checks the keys of both."""
    text = content.get("text_config", content)
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{path}: expected an object as text_config, found {short(text)}")
    check_llava(content, path)
    check_decoder(text, path)
    return text


def decoder_shape(text: Mapping[str, Any], path: Path) -> LlamaConfig:
    """The shape of a decoder from the keys that `decoder_keys` gives."""
    rotary = {"rope_type": "default", "rope_theta": rotary_base(text, path)}
    keys = {key: text[key] for key in _TEXT_KEYS if text.get(key) is not None}
    try:
        return LlamaConfig(**keys, rope_parameters=rotary, tie_word_embeddings=False)
    except Exception as error:  # the types that transformers raises changed between its versions
        raise CheckpointError(f"{path} describes no Llama: {one_line(error)}") from None


def compare_with_base(content: Mapping[str, Any], path: Path, base: LlamaConfig) -> None:
    """Check the configuration of an adapter against the decoder of its base.

    Raises:
        CheckpointError: the adapter was made for another base.
    """
    text = decoder_keys(content, path)
    stated = {key: text[key] for key in _COMPARED if text.get(key) is not None}
    if "rope_theta" in text or "rope_parameters" in text:
        stated["rope_theta"] = rotary_base(text, path)
    found = {**base.to_dict(), "rope_theta": rotary_base(base.to_dict(), path)}
    for key, value in stated.items():
        if value != found[key]:
            raise CheckpointError(
                f"{path.parent} was made for another base: its {key} is {short(value)}, the base has {found[key]}"
            )
    if content.get("unfreeze_mm_vision_tower"):
        raise CheckpointError(f"{path}: unfreeze_mm_vision_tower is set, but an adapter holds no vision tower")


def tower_shape(vision: Any, path: Path) -> CLIPVisionConfig:
    """The shape of a vision tower."""
    check_tower(vision, path)
    if (activation := vision.get("hidden_act", "quick_gelu")) not in list(ACT2FN):
        raise CheckpointError(f"{path}: transformers has no activation {short(activation)}; OpenAI's is quick_gelu")
    try:
        return CLIPVisionConfig(**{key: vision[key] for key in _VISION_KEYS if vision.get(key) is not None})
    except Exception as error:  # see `decoder_shape`
        raise CheckpointError(f"{path} describes no CLIP vision tower: {one_line(error)}") from None
