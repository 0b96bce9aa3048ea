"""From released files to a model: LLaVA-1.5 base, vision tower, EmoLA adapter; no weight is missing or left over."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, set_peft_model_state_dict
from torch import Tensor

from sdk.bundles.hub import resolve_checkpoint
from sdk.errors import CheckpointError
from trainer.model.config import (
    CONVENTIONS,
    Conventions,
    EmolaConfig,
    is_llava_hf,
    read_config,
    read_conventions,
    read_statistics,
)
from trainer.model.emola import EmoLA
from trainer.model.layerwise import read_layerwise
from trainer.model.lora import LoraUpdates, MergedWeights, attach_lora
from trainer.model.new_projector import PROJECTOR, NewProjector
from trainer.model.priors import LANDMARKS
from trainer.model.processor import Arithmetic, Device, choose_arithmetic
from trainer.model.weights import WeightFiles, canonical_name, weight_files


def load_emola(
    adapter: "str | os.PathLike[str] | None",
    base: "str | os.PathLike[str]",
    vision_tower: "str | os.PathLike[str] | None" = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: "torch.device | str" = "cpu",
    lora: Literal["merged", "live"] = "merged",
) -> EmoLA:
    """Read a model from files.

    Args:
        adapter: folder of an EmoLA adapter in the authors' files or in ours; None for a complete (merged) base.
        base: folder of LLaVA-1.5 as released or as converted by llava-hf. A text may also name a repository of the
            Hugging Face hub, as "owner/name" or "owner/name@revision"; so may the other two.
        vision_tower: folder of the CLIP tower; None if the base holds it.
        dtype, device: of the parameters.
        lora: "merged" adds the low-rank update to the weights; "live" keeps it apart, as peft modules.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: names the weight that is missing, left over or of the wrong shape.
    """
    return Checkpoint(adapter, base, vision_tower).load(dtype=dtype, device=device, lora=lora)


def is_plain_llava(base: "str | os.PathLike[str]") -> bool:
    """Whether a folder holds LLaVA-1.5 as released, which has neither our conventions nor a landmark projector."""
    folder = _folder(base, "base")
    if (folder / CONVENTIONS).is_file():
        return False
    return not any(name.startswith(PROJECTOR) for name in WeightFiles(weight_files(folder)))


def plain_llava(base: "str | os.PathLike[str]", vision_tower: "str | os.PathLike[str] | None" = None) -> "Checkpoint":
    """LLaVA-1.5 without adapter: the decoder reads the picture alone, in LLaVA's own template and padding.

    Args:
        base, vision_tower: as in `load_emola`.
    """
    found = Checkpoint(None, base, vision_tower, new_projector_seed=0)  # a projector that is never read
    found.config = dataclasses.replace(found.config, tokens="visual")
    found.conventions = Conventions(template="vicuna_v1", image_aspect="pad")
    return found


class Checkpoint:
    """The files of one model, opened and checked against each other; weights are read on access.

    Args:
        adapter, base, vision_tower: as in `load_emola`.
        new_projector_seed: start a landmark projector at random if no file holds one; for training only.
        prior: start a new landmark projector with this prior, see `trainer.model.priors`; for training only.

    Attributes:
        config: shape of the model.
        conventions: prompt format and preprocessing.
        statistics: of the vision tower's input.
        frozen: every weight of the model by its name in `EmoLA`, without LoRA.
        merged: the same with LoRA added, computed in float32.
    """

    def __init__(
        self,
        adapter: "str | os.PathLike[str] | None",
        base: "str | os.PathLike[str]",
        vision_tower: "str | os.PathLike[str] | None" = None,
        *,
        new_projector_seed: int | None = None,
        prior: str | None = None,
    ) -> None:
        self.adapter = _folder(adapter, "adapter") if adapter is not None else None
        self.base = _folder(base, "base")
        self.vision_tower = _folder(vision_tower, "vision tower") if vision_tower is not None else None
        self.config = read_config(self.base, self.vision_tower, self.adapter)
        replaced = prior is not None and prior != self.config.prior
        self.config = dataclasses.replace(self.config, prior=prior or self.config.prior)
        self._new = NewProjector(self.config, new_projector_seed) if new_projector_seed is not None else None
        self.conventions = read_conventions(self.adapter or self.base)
        self.statistics = read_statistics(self.vision_tower, self.base)
        self.lora = LoraUpdates(self.adapter) if self.adapter else None
        frozen = _Layers(self._layers(replaced), self.config, padded=is_llava_hf(self.base))
        self._shapes = frozen.shapes
        self.frozen: Mapping[str, Tensor] = frozen
        self.merged: Mapping[str, Tensor] = frozen
        if self.lora:
            self.lora.check(frozen.shapes)
            self.merged = MergedWeights(frozen, self.lora)

    def load(
        self, *, dtype: torch.dtype, device: "torch.device | str" = "cpu", lora: Literal["merged", "live"] = "merged"
    ) -> EmoLA:
        """The model, in evaluation mode; see `load_emola`."""
        model = self._empty()
        _fill(model, self.merged if lora == "merged" else self.frozen, dtype, device)
        if lora == "live":
            _attach_lora(model, self)
        return model.to(device).eval()

    def load_for(
        self, arithmetic: Arithmetic, *, encoders: bool = True, ran: Callable[[int], None] = lambda layer: None
    ) -> EmoLA:
        """The merged model in an arithmetic of `choose_arithmetic`, in evaluation mode.

        Args:
            arithmetic: type, device, and whether memory holds one decoder layer at a time.
            encoders: False leaves vision tower and projectors out: the model can fuse given rows and decode.
            ran: called with the index of each decoder layer after it ran, if it runs layer by layer.
        """
        model = self._empty()
        if not encoders:
            del model.vision_tower, model.mm_projector, model.landmark_feature_projector
        dtype, device, decoder = arithmetic.dtype, arithmetic.device, model.language_model
        if arithmetic.layerwise:
            read_layerwise(decoder, lambda name: self.merged[f"language_model.{name}"], dtype, ran)
        _fill(model, self.merged, dtype, device)
        return model.to(device).eval()

    def arithmetic(self, device: Device = "auto", *, exact: bool = False) -> Arithmetic:
        """The arithmetic of the whole model on this machine; see `choose_arithmetic`."""
        stored = self.frozen["language_model.model.norm.weight"].dtype
        return choose_arithmetic(self.weights, stored, device, exact=exact)

    @property
    def weights(self) -> int:
        """The number of weights of the model."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def _empty(self) -> EmoLA:
        """The model with its parameters on the meta device."""
        with init_empty_weights(include_buffers=False):
            return EmoLA(self.config)

    def files(self) -> list[Path]:
        """All files on which the output of the model depends, for hashing."""
        described = ("config.json", "tokenizer.model", "preprocessor_config.json", CONVENTIONS)
        found = [*weight_files(self.base), *(self.base / name for name in described)]
        for folder in filter(None, (self.vision_tower, self.adapter)):
            found += [path for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".safetensors", ".json")]
        return [path for path in found if path.is_file()]

    def adapter_weights(self) -> dict[str, Tensor]:
        """The weights of an adapter by name in the model: both projectors and, if there are any, the LoRA factors."""
        projectors = ("mm_projector.", "landmark_feature_projector.")
        found = {name: tensor for name, tensor in self.frozen.items() if name.startswith(projectors)}
        for name, pair in self.lora.pairs.items() if self.lora else ():
            module = name.removesuffix(".weight").replace("language_model.", "language_model.base_model.model.", 1)
            found |= {f"{module}.lora_{half}.default.weight": part for half, part in zip("AB", pair, strict=True)}
        return found

    def measure_prior(self, features: Tensor) -> None:
        """Tell a new projector the (N, 212) landmark features of training records, before the model is loaded."""
        if self._new:
            self._new.measure(features)

    def _layers(self, replaced: bool) -> "list[WeightFiles | NewProjector]":
        """Sources of weights; earlier ones win. If the prior is replaced, the stored projectors are left out."""
        without = PROJECTOR if replaced or (self.adapter and self.config.prior != LANDMARKS) else None
        layers: list[WeightFiles | NewProjector] = [WeightFiles(weight_files(self.base), without=without)]
        if self.vision_tower and _has_weights(self.vision_tower):
            layers.insert(0, WeightFiles(weight_files(self.vision_tower), vision_only=True))
        if self.adapter:
            own = PROJECTOR if replaced else None
            layers.insert(0, WeightFiles(_projector_files(self.adapter), without=own))
        if self._new:
            layers.append(self._new)
        return layers


def _fill(model: EmoLA, weights: Mapping[str, Tensor], dtype: torch.dtype, device: "torch.device | str") -> None:
    """Read all weights but the parameters that were read before, one after another: none is in memory twice."""
    read = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.is_meta}
    names = [name for name in model.state_dict() if name not in read]
    state = {name: weights[canonical_name(name) or name].to(device, dtype) for name in names}
    model.load_state_dict(state, assign=True, strict=not read)


class _Layers(Mapping[str, Tensor]):
    """Exactly the weights of a model, each from the first source with its name.

    Args:
        layers: sources of weights; earlier ones win.
        padded: the vocabulary may have more rows than the tokenizer has pieces.

    Raises:
        CheckpointError: a weight is missing, left over or not of the shape in the configuration.
    """

    def __init__(self, layers: "list[WeightFiles | NewProjector]", config: EmolaConfig, *, padded: bool) -> None:
        with torch.device("meta"):
            expected = {canonical_name(k) or k: tuple(v.shape) for k, v in EmoLA(config).state_dict().items()}
        for layer in layers:
            surplus = [name for name in layer if name not in expected]
            if surplus:
                raise CheckpointError(
                    f"{layer.describe(surplus[0])}: no such weight in this model ({len(surplus)} left over)"
                )
        found = {name: layer for layer in reversed(layers) for name in layer}
        missing = [name for name in expected if name not in found]
        if missing:
            raise CheckpointError(_missing_message(missing))
        self.shapes = expected
        self._vocabulary = config.text.vocab_size
        self._layers = {name: found[name] for name in expected}
        for name, shape in expected.items():
            stored = found[name].shape(name)
            if stored != shape and not (padded and _is_vocabulary(name) and stored[0] >= shape[0]):
                raise CheckpointError(
                    f"{found[name].describe(name)}: expected shape {shape} from config.json, found {stored}: the "
                    "files belong to different models"
                )

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._layers[name][name]
        return tensor[: self._vocabulary] if _is_vocabulary(name) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def _is_vocabulary(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "lm_head.weight"))


def _missing_message(missing: list[str]) -> str:
    part = missing[0].split(".")[0]
    remedy = {
        "vision_tower": "the base holds no vision tower: pass its folder (--vision-tower)",
        "mm_projector": "the base holds no visual projector: it must be LLaVA-1.5, not the language model alone",
        "landmark_feature_projector": "the base is not a complete EmoLA model: pass an adapter",
    }.get(part, "copy the checkpoint again")
    return f"{missing[0]} is missing ({len(missing)} weights in all); {remedy}"


def _attach_lora(model: EmoLA, checkpoint: Checkpoint) -> None:
    """Wrap the decoder in peft modules that hold the factors of the adapter."""
    lora = checkpoint.lora
    if lora is None:
        raise CheckpointError("lora='live' needs an adapter")
    given = lora.config
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=given.rank,
        lora_alpha=given.alpha,  # type: ignore[arg-type]  # peft declares int and takes any number
        rank_pattern=dict(given.rank_pattern),
        alpha_pattern=dict(given.alpha_pattern),
        use_rslora=given.rslora,
        lora_dropout=given.dropout,
        target_modules=list(given.targets),
    )
    wrapped = attach_lora(model.language_model, config)
    updates = {
        f"base_model.{name.removesuffix('.weight')}.lora_{half}.weight".replace("language_model.", "model.", 1): tensor
        for name, pair in lora.pairs.items()
        for half, tensor in zip("AB", pair, strict=True)
    }
    set_peft_model_state_dict(wrapped, updates)
    model.language_model = wrapped


def _projector_files(adapter: Path) -> list[Path]:
    """The files of the two projectors: one file in our layout, two in the authors'."""
    ours = adapter / "non_lora_trainables.safetensors"
    if ours.is_file():
        return [ours]
    official = [adapter / name for name in ("non_lora_trainables.bin", "landmark_feature_projector.bin")]
    missing = [path.name for path in official if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{adapter}: {' and '.join(missing)} missing; without it a projector would keep random weights: copy the "
            "whole adapter folder"
        )
    return official


def _folder(path: "str | os.PathLike[str]", role: str) -> Path:
    folder = resolve_checkpoint(path)
    if not folder.is_dir():
        raise CheckpointError(f"{role} {os.fspath(path)!r} is not a folder; expected the files of the checkpoint")
    return folder


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".bin", ".safetensors") for path in folder.iterdir())
