"""Weight files of every released layout as one mapping from parameter names to tensors, which are read on access.

Layouts: safetensors or torch's .bin, in one file or in shards with an index; names of the LLaVA-1.5 and EmoLA releases
(`model.mm_projector...`), of peft adapters (`base_model.model...`), of llava-hf before and since transformers 4.52
(`multi_modal_projector...`), of CLIP alone. All are mapped to the names of `trainer.model.EmoLA`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdk.errors import CheckpointError
from sdk.untrusted_json import read_json_object

_RENAMES = [
    (r"^base_model\.model\.", ""),
    (r"^(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?", "vision_tower."),
    (r"^(?:model\.)?multi_modal_projector\.linear_1\.", "mm_projector.0."),
    (r"^(?:model\.)?multi_modal_projector\.linear_2\.", "mm_projector.2."),
    (r"^model\.(mm_projector|landmark_feature_projector)\.", r"\1."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^(?:model\.)?(layers|embed_tokens|norm)\.", r"language_model.model.\1."),
    (r"^lm_head\.", "language_model.lm_head."),
]
_DERIVED = re.compile(r"(rotary_emb\.inv_freq|position_ids)$")  # computed from the configuration, saved by old versions


class WeightFiles(Mapping[str, Tensor]):
    """The tensors of one checkpoint by canonical name; each is read on access.

    Args:
        files: weight files.
        vision_only: the files hold CLIP alone; its text half, if there is one, is left out.
        without: beginning of the canonical names that are left out.
    """

    def __init__(self, files: list[Path], *, vision_only: bool = False, without: str | None = None) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Mapping[str, Tensor]] = {}
        for path in files:
            self._open[path] = _open_file(path)
            for name in self._open[path]:
                canonical = _vision_name(name) if vision_only else canonical_name(name)
                if canonical is not None and not (without and canonical.startswith(without)):
                    self._places[canonical] = (path, name)

    def __getitem__(self, name: str) -> Tensor:
        path, original = self._places[name]
        return self._open[path][original]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        path, original = self._places[name]
        file = self._open[path]
        return file.shape(original) if isinstance(file, _SafeTensors) else tuple(file[original].shape)

    def describe(self, name: str) -> str:
        """Original name and file of a tensor, for messages."""
        path, original = self._places[name]
        return f"{original} in {path}"


def canonical_name(name: str) -> str | None:
    """The name of a tensor in `EmoLA`, or None if it is derived from the configuration."""
    if _DERIVED.search(name):
        return None
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _vision_name(name: str) -> str | None:
    if _DERIVED.search(name) or name.startswith(
        ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
    ):
        return None
    return re.sub(r"^(?:vision_model\.)?", "vision_tower.", name)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, by its index if there is one; safetensors are preferred to .bin.

    Raises:
        CheckpointError: there are none, or a shard of the index is missing.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            try:
                weight_map = read_json_object(index, CheckpointError, advice="copy it again")["weight_map"]
                shards = sorted(set(weight_map.values()))
            except (KeyError, AttributeError, TypeError):
                raise CheckpointError(f"{index} is not a weight index; copy it again") from None
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise CheckpointError(f"{folder}: {', '.join(missing)} missing, named in {index.name}; copy them again")
            return [folder / shard for shard in shards]
        if (folder / single).is_file():
            return [folder / single]
    raise CheckpointError(
        f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, in one file or sharded"
    )


def _open_file(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _SafeTensors(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # type: ignore[no-any-return]
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no weight file ({_first_line(error)}); copy it again") from None
    except Exception as error:  # pickle.UnpicklingError: weights_only refuses code
        raise CheckpointError(f"{path} holds more than tensors and is not loaded ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


class _SafeTensors(Mapping[str, Tensor]):
    """The tensors of one file, which is opened anew for each.

    A tensor is mapped into memory and its mapping ends with it. One mapping for all tensors would keep every page
    resident that was read once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
