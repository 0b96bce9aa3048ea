"""The shape of a model and its conventions, read from the JSON files of its folders."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import CLIPVisionConfig, LlamaConfig

from sdk.errors import CheckpointError
from sdk.faba.prompts import TEMPLATES
from sdk.faces.preprocess import LANDMARK_FEATURES, Anchor, Aspect, LandmarkMode, Preprocessing
from sdk.untrusted_json import read_json_object
from trainer.tokenization import load_tokenizer

Tokens = Literal["both", "visual", "prior"]
CONVENTIONS = "emola.json"
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


@dataclass  # not frozen: the Trainer of transformers sets `use_cache` on the config of any model
class EmolaConfig:
    """Shape of a model.

    Attributes:
        text: the Llama decoder.
        vision: the CLIP vision tower.
        landmark_size: length of the landmark feature.
        landmark_anchors: landmarks that expressions hardly move, and their target places, so that the landmark row
            does not depend on the place of the head; empty: the raw feature is read, as the authors do.
        vision_layer: index of the hidden state of the tower that is read; -2 is the last but one.
        projector: "linear" or "mlpNx_gelu", of the visual projector.
        tokens: rows that the decoder sees: "both", or one kind of them for the ablation of Table 8.
        max_length: longest fused sequence in positions; longer ones are cut off.
    """

    text: LlamaConfig
    vision: CLIPVisionConfig
    landmark_size: int = LANDMARK_FEATURES
    landmark_anchors: tuple[Anchor, ...] = ()
    vision_layer: int = -2
    projector: str = "mlp2x_gelu"
    tokens: Tokens = "both"
    max_length: int = 2048

    @property
    def image_rows(self) -> int:
        """Rows in the place of the image: one per patch and one for the landmarks, restricted by `tokens`."""
        patches = patches_per_side(self.vision) ** 2
        return {"both": patches + 1, "visual": patches, "prior": 1}[self.tokens]


def image_side(vision: CLIPVisionConfig) -> int:
    """Side in pixels of the picture that a vision tower reads."""
    return _square_side(vision.image_size)


def patch_side(vision: CLIPVisionConfig) -> int:
    """Side in pixels of a patch of a vision tower."""
    return _square_side(vision.patch_size)


def patches_per_side(vision: CLIPVisionConfig) -> int:
    """Patches along a side of the picture that a vision tower reads."""
    return image_side(vision) // patch_side(vision)


def _square_side(size: int | list[int] | tuple[int, int] | None) -> int:
    if not isinstance(size, int):
        raise CheckpointError(f"expected one number as the side of pictures and patches in config.json, found {size}")
    return size


@dataclass(frozen=True)
class Conventions:
    """Prompt format and preprocessing that a checkpoint expects; the defaults are those of the authors' evaluation.

    Attributes:
        template: conversation format, a key of `sdk.faba.prompts.TEMPLATES`.
        image_aspect, landmark_mode, anchors: see `sdk.faces.preprocess.Preprocessing`.
        face_scale: side of the face crop over the longer side of dlib's box. Not recorded for the released checkpoints;
            1.7 shows forehead to chin, as their training pictures do.
        notice: a sentence that every result must carry, or None.
        licence: terms of the weights as their maker states them, or None.
    """

    template: str = "llava_v1"
    image_aspect: Aspect = "crop"
    landmark_mode: LandmarkMode = "emola"
    face_scale: float = 1.7
    anchors: tuple[Anchor, ...] = ()
    notice: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple((int(index), x, y) for index, x, y in self.anchors))
        if (self.image_aspect == "align") != bool(self.anchors):
            raise CheckpointError(f"{CONVENTIONS}: image_aspect 'align' goes with anchors; found {self.image_aspect!r}")
        if self.anchors and self.landmark_mode == "emola":
            raise CheckpointError(
                f"{CONVENTIONS}: image_aspect 'align' turns faces by their landmarks, but landmark files of mode "
                "'emola' hold no coordinates: compute them by `emola data landmarks --replace`, or train with "
                "--image-aspect pad"
            )
        for name, allowed in (
            ("template", tuple(TEMPLATES)),
            ("image_aspect", get_args(Aspect)),
            ("landmark_mode", get_args(LandmarkMode)),
        ):
            if getattr(self, name) not in allowed:
                raise CheckpointError(f"{CONVENTIONS}: {name} must be one of {allowed}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and standard deviation of the vision tower's input per RGB channel, of values in 0..1; default: CLIP's."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


def preprocessing(config: EmolaConfig, conventions: Conventions, statistics: ImageStatistics) -> Preprocessing:
    """The preprocessing settings that are written into a bundle."""
    return Preprocessing(
        face_scale=conventions.face_scale,
        image_size=image_side(config.vision),
        image_mean=statistics.mean,
        image_std=statistics.std,
        image_aspect=conventions.image_aspect,
        landmark_mode=conventions.landmark_mode,
        anchors=conventions.anchors,
    )


def read_config(base: Path, vision_tower: Path | None) -> EmolaConfig:
    """The shape of a model from the `config.json` of its folders, official or llava-hf."""
    content = read_json(base / "config.json")
    text = content.get("text_config", content)
    if text.get("rope_scaling") or text.get("rope_parameters", {}).get("rope_type", "default") != "default":
        raise CheckpointError(f"{base}: scaled rotary embeddings are not supported; expected plain Llama or Vicuna 1.5")
    theta = text.get("rope_theta") or text.get("rope_parameters", {}).get("rope_theta", 10000.0)
    llama = LlamaConfig(
        **{key: text[key] for key in _TEXT_KEYS if text.get(key) is not None},
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
    )
    if is_llava_hf(base):  # pads the vocabulary beyond the tokenizer's
        llama.vocab_size = min(llama.vocab_size, load_tokenizer(base).vocab_size())
    return EmolaConfig(
        text=llama,
        vision=_vision_config(content, base, vision_tower),
        landmark_size=content.get("landmark_feature_hidden_size", LANDMARK_FEATURES),
        landmark_anchors=tuple(tuple(anchor) for anchor in content.get("emola_landmark_anchors", ())),
        vision_layer=content.get("mm_vision_select_layer", content.get("vision_feature_layer", -2)),
        projector=content.get("mm_projector_type", "mlp2x_gelu"),
        tokens=content.get("emola_tokens", "both"),
        max_length=content.get("tokenizer_model_max_length", 2048),
    )


def is_llava_hf(base: Path) -> bool:
    """Whether a base is in the layout of llava-hf, which nests the configuration of the decoder."""
    return "text_config" in read_json(base / "config.json")


def read_conventions(folder: Path) -> Conventions:
    """The conventions in `emola.json` of a checkpoint folder; without that file, those of the authors."""
    if not (folder / CONVENTIONS).is_file():
        return Conventions()
    known = {field.name for field in dataclasses.fields(Conventions)}
    return Conventions(**{key: value for key, value in read_json(folder / CONVENTIONS).items() if key in known})


def _vision_config(content: Mapping[str, Any], base: Path, vision_tower: Path | None) -> CLIPVisionConfig:
    if vision_tower:
        found = read_json(vision_tower / "config.json")
        return CLIPVisionConfig(**_plain(found.get("vision_config", found)))
    if "vision_config" in content:
        return CLIPVisionConfig(**_plain(content["vision_config"]))
    if content.get("mm_vision_tower") == "openai/clip-vit-large-patch14-336":
        return clip_large()
    raise CheckpointError(
        f"{base}: its config.json does not describe the vision tower; pass the tower's folder (--vision-tower)"
    )


def clip_large() -> CLIPVisionConfig:
    """The shape of openai/clip-vit-large-patch14-336."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("model_type", "torch_dtype", "dtype")}


def read_statistics(*folders: Path | None) -> ImageStatistics:
    for folder in filter(None, folders):
        if (folder / "preprocessor_config.json").is_file():
            content = read_json(folder / "preprocessor_config.json")
            if "image_mean" in content and "image_std" in content:
                return ImageStatistics(tuple(content["image_mean"]), tuple(content["image_std"]))
    return ImageStatistics()


def check_adapter_config(adapter: Path, config: EmolaConfig) -> None:
    """Compare the shape in the config of an adapter with its base, before any weight is opened.

    Raises:
        CheckpointError: the adapter was made for another base.
    """
    if not (adapter / "config.json").is_file():
        return
    content = read_json(adapter / "config.json")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if key in content and content[key] != getattr(config.text, key):
            raise CheckpointError(
                f"{adapter} was made for another base: its {key} is {content[key]}, the base has "
                f"{getattr(config.text, key)}"
            )


def read_tokens(adapter: Path) -> Tokens | None:
    """The rows that an adapter of ours was trained with; the authors' adapters do not record them."""
    path = adapter / "config.json"
    return read_json(path).get("emola_tokens") if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return read_json_object(path, CheckpointError, advice="copy it again")
