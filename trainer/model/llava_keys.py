"""Keys of a LLaVA `config.json`: this model computes one value of many of them, and refuses the others by name."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

from sdk.errors import CheckpointError

# Values that are computed; a missing key and null are the default of LLaVA-1.5.
LLAVA: dict[str, tuple[Any, ...]] = {
    "model_type": ("llava", "llava_llama", "llama", "emola", "emollava"),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "mm_vision_select_feature": ("patch",),
    "vision_feature_select_strategy": ("default",),
    "image_aspect_ratio": ("pad", "square"),
    "mm_patch_merge_type": ("flat",),
    "mm_resampler_type": (),
    "s2": (False,),
    "projector_hidden_act": ("gelu",),
    "multimodal_projector_bias": (True,),
    "quantization_config": (),
    "tie_word_embeddings": (False,),
}
DECODER: dict[str, tuple[Any, ...]] = {
    **{key: LLAVA[key] for key in ("model_type", "quantization_config", "tie_word_embeddings")},
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (),
    "partial_rotary_factor": (1,),
}
TOWER: dict[str, tuple[Any, ...]] = {
    "model_type": ("clip", "clip_vision_model"),
    "num_channels": (3,),
    "quantization_config": (),
}
PROCESSOR: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("do_normalize", "do_rescale", "do_resize"), (True,)),
    "resample": (3,),  # bicubic
}
DECODER_SIZES = {
    "vocab_size": 1 << 20,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "head_dim": 1 << 12,
    "max_position_embeddings": 1 << 24,
}
TOWER_SIZES = {
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "projection_dim": 1 << 16,
}
HONOURED = {
    *("mm_vision_select_layer", "vision_feature_layer", "mm_projector_type", "vision_config"),
    *("emola_landmark_anchors", "emola_tokens", "emola_prior_position", "emola_prior"),
    *("rope_theta", "rope_scaling", "rope_parameters"),
    "unfreeze_mm_vision_tower",
}
MODEL_SIZES = {"landmark_feature_hidden_size": 1 << 16, "tokenizer_model_max_length": 1 << 24}
WITHOUT_EFFECT = {  # of the families below: names, settings of a training, numbers that follow from others
    *("mm_vision_tower", "mm_hidden_size", "mm_projector_lr", "mm_vision_tower_lr", "attention_dropout"),
    *("image_token_index", "image_token_id", "image_seq_length", "image_grid_pinpoints"),
}
_FAMILIES = ("mm_", "vision_", "image_", "rope_", "attention_", "projector_", "s2_", "unfreeze_", "emola_")


def check_llava(content: Mapping[str, Any], path: Path) -> None:
    """Check the keys of a whole model, besides its decoder and its vision tower.

    Raises:
        CheckpointError: names a key whose value this model does not compute, or that it does not know.
    """
    _check(content, LLAVA, path)
    for key in sorted(content.keys() - LLAVA.keys() - DECODER.keys() - HONOURED - WITHOUT_EFFECT):
        if key.startswith(_FAMILIES) and content[key] not in (None, False, [], {}, ""):
            raise CheckpointError(
                f"{path}: {key} = {short(content[key])} is not known to this version, which computes LLaVA-1.5; use "
                "the version that wrote this file"
            )


def check_decoder(text: Mapping[str, Any], path: Path) -> None:
    """Check the keys of the decoder; errors as in `check_llava`."""
    _check(text, DECODER, path)
    check_sizes(text, DECODER_SIZES, path)
    if text.get("rope_scaling"):
        raise CheckpointError(f"{path}: scaled rotary embeddings are not supported; expected plain Llama or Vicuna 1.5")
    epsilon = text.get("rms_norm_eps")
    if epsilon is not None and not (is_number(epsilon) and 0 < epsilon < 1):
        raise CheckpointError(f"{path}: expected rms_norm_eps between 0 and 1, found {short(epsilon)}")


def check_tower(vision: Any, path: Path) -> None:
    """Check the keys of the vision tower; errors as in `check_llava`."""
    if not isinstance(vision, Mapping):
        raise CheckpointError(f"{path}: expected the configuration of a CLIP vision tower, found {short(vision)}")
    _check(vision, TOWER, path)
    check_sizes(vision, TOWER_SIZES, path)


def check_processor(content: Mapping[str, Any], path: Path) -> None:
    """Check the keys of a `preprocessor_config.json`; errors as in `check_llava`."""
    _check(content, PROCESSOR, path)
    factor = content.get("rescale_factor")
    if factor is not None and not (is_number(factor) and abs(255 * factor - 1) < 1e-3):
        raise CheckpointError(f"{path}: expected a rescale_factor of 1/255, found {short(factor)}")


def rotary_base(text: Mapping[str, Any], path: Path) -> float:
    """The base of the rotary embedding, by the key of transformers before or since version 5.

    Raises:
        CheckpointError: it is not a positive number, or the angles are scaled.
    """
    parameters = text.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping) or parameters.get("rope_type", "default") != "default":
        raise CheckpointError(f"{path}: scaled rotary embeddings are not supported; expected plain Llama or Vicuna 1.5")
    _check(parameters, {"partial_rotary_factor": (1,)}, path)
    theta = text.get("rope_theta") or parameters.get("rope_theta") or 10000.0
    if not is_number(theta) or not 1 <= theta <= 1e12:
        raise CheckpointError(f"{path}: expected a number of at least 1 as rope_theta, found {short(theta)}")
    return float(theta)


def feature_layer(sources: Sequence[Mapping[str, Any]], layers: int, path: Path) -> int:
    """The hidden state of the tower that is read: the first value that a source states, else -2.

    Args:
        sources: configurations, the one that counts first.
        layers: of the tower; the states are numbered from 0, the embeddings, or from -1 backwards.
        path: of the file, for messages.
    """
    keys = ("mm_vision_select_layer", "vision_feature_layer")
    stated = [_one_layer(source[key]) for source in sources for key in keys if source.get(key) is not None]
    for layer in stated:
        if type(layer) is not int or not -layers - 1 <= layer <= layers:
            raise CheckpointError(
                f"{path}: expected one hidden state of the {layers} layers of the vision tower as {keys[0]} or "
                f"{keys[1]}, found {short(layer)}"
            )
    first: int = stated[0] if stated else -2
    return first


def _one_layer(stated: Any) -> Any:
    """The only element of a list: llava-hf joins the hidden states of a list."""
    return stated[0] if isinstance(stated, list) and len(stated) == 1 else stated


def _check(content: Mapping[str, Any], computed: Mapping[str, tuple[Any, ...]], path: Path) -> None:
    for key, values in computed.items():
        value = content.get(key)
        if value is not None and not any(type(value) in (type(v), float) and value == v for v in values):
            expected = " or ".join(map(repr, values)) or "nothing"
            raise CheckpointError(
                f"{path}: {key} = {short(value)} is not computed by this model; expected {expected}, as in LLaVA-1.5"
            )


def check_sizes(content: Mapping[str, Any], limits: Mapping[str, int], path: Path) -> None:
    """Check that sizes are whole numbers from 1 to their limit; a missing size and null are left to the default."""
    for key, limit in limits.items():
        size = content.get(key)
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= limit):
            raise CheckpointError(f"{path}: expected a whole number from 1 to {limit} as {key}, found {short(size)}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number that fits into a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and not math.isnan(value)
