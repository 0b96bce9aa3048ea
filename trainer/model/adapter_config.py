"""`adapter_config.json` of a LoRA adapter: each key is honoured, has no effect on a trained adapter, or is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from sdk.errors import CheckpointError
from trainer.model.config import read_json

ADAPTER_CONFIG = "adapter_config.json"


def _keys(names: str) -> frozenset[str]:
    return frozenset(names.split())


HONOURED = _keys(
    "peft_type r lora_alpha use_rslora rank_pattern alpha_pattern target_modules init_lora_weights bias lora_dropout"
)
WITHOUT_EFFECT = _keys(  # names, versions, and settings of an initialisation that `init_lora_weights` names
    "auto_mapping base_model_name_or_path revision task_type peft_version inference_mode megatron_core runtime_config "
    "qalora_group_size layers_pattern ensure_weight_tying loftq_config eva_config corda_config lora_ga_config"
)
REFUSED = _keys(  # unless null, false or empty
    "fan_in_fan_out modules_to_save exclude_modules layers_to_transform layer_replication target_parameters "
    "trainable_token_indices megatron_config use_dora use_qalora use_bdlora lora_bias alora_invocation_tokens "
    "velora_config monteclora_config arrow_config kasa_config"
)
_KEEPS_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # others of peft change the base weights
_MODULE = re.compile(r"[A-Za-z0-9_.]+")
_MAX_RANK, _MAX_ALPHA = 1 << 16, 1e9


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of plain LoRA: W + scale * B @ A for each module.

    Attributes:
        rank: of modules that `rank_pattern` does not name.
        alpha: of modules that `alpha_pattern` does not name.
        rank_pattern, alpha_pattern: other values by module name or the end of one; the first that fits counts.
        rslora: the scale is alpha / sqrt(rank) instead of alpha / rank.
        dropout: of the training, 0..1.
        targets: names of the modules, or the ends of names.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dropout: float
    targets: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        """The rank of a module, named as in Hugging Face's Llama: "model.layers.0.self_attn.q_proj"."""
        return next((rank for key, rank in self.rank_pattern.items() if _fits(key, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of B @ A."""
        alpha = next((alpha for key, alpha in self.alpha_pattern.items() if _fits(key, module)), self.alpha)
        rank = self.rank_of(module)
        return float(alpha / (rank**0.5 if self.rslora else rank))

    def targets_module(self, module: str) -> bool:
        return any(module == target or module.endswith(f".{target}") for target in self.targets)


def _fits(key: str, module: str) -> bool:
    """Whether a key of a pattern names a module, by the rule of peft's `get_pattern_key`."""
    return re.match(rf"(.*\.)?({key})$", module) is not None  # the dot is the only special character of `_MODULE`


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read the settings of an adapter.

    Raises:
        CheckpointError: names the key that is missing, has a wrong value, or changes the result in a way that this
            version does not compute.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json(path)
    _refuse(content, path)
    rank_pattern, alpha_pattern = (_pattern(content, key, path) for key in ("rank_pattern", "alpha_pattern"))
    for rank in (content.get("r"), *rank_pattern.values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= _MAX_RANK:
            raise CheckpointError(f"{path}: expected a rank (r) of 1 to {_MAX_RANK}, found {short(rank)}")
    for alpha in (content.get("lora_alpha"), *alpha_pattern.values()):
        if not _is_number(alpha) or not -_MAX_ALPHA <= alpha <= _MAX_ALPHA:
            raise CheckpointError(f"{path}: expected a number as lora_alpha, found {short(alpha)}")
    dropout = content.get("lora_dropout") or 0.0
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise CheckpointError(f"{path}: expected a lora_dropout of at least 0, below 1, found {short(dropout)}")
    rslora = content.get("use_rslora") or False
    if rslora not in (True, False):
        raise CheckpointError(f"{path}: expected true or false as use_rslora, found {short(rslora)}")
    targets = _targets(content, path)
    return AdapterConfig(
        content["r"], content["lora_alpha"], rank_pattern, alpha_pattern, bool(rslora), float(dropout), targets
    )


def _refuse(content: Mapping[str, Any], path: Path) -> None:
    """Refuse every key that is not plain LoRA on the base as released."""
    if content.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: expected plain LoRA (peft_type LORA), found {short(content.get('peft_type'))}")
    start = content.get("init_lora_weights", True)
    if not any(start is known or (start == known and isinstance(start, str)) for known in _KEEPS_BASE):
        raise CheckpointError(
            f"{path}: init_lora_weights {short(start)} changed the weights of the base, which are not in the adapter; "
            "convert it to plain LoRA: model.save_pretrained(..., path_initial_model_for_weight_conversion=...) of peft"
        )
    if content.get("bias") not in (None, "none"):
        raise CheckpointError(f"{path}: expected plain LoRA with bias 'none', found {short(content['bias'])}")
    for key in sorted(content.keys() - HONOURED - WITHOUT_EFFECT):
        value = content[key]
        if value is not None and value is not False and value not in ([], {}, ""):
            why = "is not computed by this version" if key in REFUSED else "is not known to this version"
            raise CheckpointError(
                f"{path}: expected plain LoRA; {short(key)} = {short(value)} {why}. Merge the adapter with peft "
                "(merge_and_unload), or train it without this setting"
            )


def _targets(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    targets = content.get("target_modules")
    if isinstance(targets, str):
        raise CheckpointError(f"{path}: target_modules is a pattern; expected a list of names such as q_proj")
    if not isinstance(targets, list) or not all(isinstance(target, str) and target for target in targets):
        raise CheckpointError(f"{path}: expected a list of names as target_modules, found {short(targets)}")
    return tuple(targets)


def _pattern(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """A mapping from names of modules; other regular expressions, which peft takes too, are refused."""
    found = content.get(key) or {}
    if not isinstance(found, dict) or not all(_MODULE.fullmatch(name) for name in found):
        raise CheckpointError(f"{path}: expected an object with names of modules as {key}, found {short(found)}")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
