"""The shape of a model and its conventions, read from the JSON files of its folders."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_args

from transformers import CLIPVisionConfig, LlamaConfig

from sdk.errors import CheckpointError
from sdk.faba.prompts import TEMPLATES
from sdk.faces.crop import RELEASED_FACE_SCALE
from sdk.faces.preprocess import LANDMARK_FEATURES, LEAST_STD, MOST_STD, Anchor, Aspect, LandmarkMode, Preprocessing
from sdk.untrusted_json import read_json_object
from trainer.model.ablation import PriorPosition, Tokens
from trainer.model.llava_keys import MODEL_SIZES, check_processor, check_sizes, feature_layer, is_number
from trainer.model.priors import LANDMARKS, find_prior
from trainer.model.shapes import compare_with_base, decoder_keys, decoder_shape, tower_shape
from trainer.tokenization import load_tokenizer

CONVENTIONS = "emola.json"
MAX_SIDE = 1 << 13  # pixels of a picture that a vision tower reads


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
        prior_position: of the landmark row: "after" the rows of the picture, as the authors have it, or "before" them.
        prior: what becomes of the landmark feature before it is projected, see `trainer.model.priors`.
    """

    text: LlamaConfig
    vision: CLIPVisionConfig
    landmark_size: int = LANDMARK_FEATURES
    landmark_anchors: tuple[Anchor, ...] = ()
    vision_layer: int = -2
    projector: str = "mlp2x_gelu"
    tokens: Tokens = "both"
    max_length: int = 2048
    prior_position: PriorPosition = "after"
    prior: str = LANDMARKS

    @property
    def image_rows(self) -> int:
        """Rows in the place of the image: one per patch and one for the landmarks, restricted by `tokens`."""
        patches = patches_per_side(self.vision) ** 2
        return {"both": patches + 1, "visual": patches, "prior": 1}[self.tokens]

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON types; trackers of experiments record them."""
        return {**dataclasses.asdict(self), "text": self.text.to_dict(), "vision": self.vision.to_dict()}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=1)


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
        face_scale: side of the face crop over the longer side of dlib's box.
        notice: a sentence that every result must carry, or None.
        licence: terms of the weights as their maker states them, or None.
        known_questions_only: whether the model answers nothing but the questions of its training files.
    """

    template: str = "llava_v1"
    image_aspect: Aspect = "crop"
    landmark_mode: LandmarkMode = "emola"
    face_scale: float = RELEASED_FACE_SCALE
    anchors: tuple[Anchor, ...] = ()
    notice: str | None = None
    licence: str | None = None
    known_questions_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", read_anchors(self.anchors, LANDMARK_FEATURES // 2, Path(CONVENTIONS)))
        if not is_number(self.face_scale) or not 0.1 <= self.face_scale <= 100:
            raise CheckpointError(f"{CONVENTIONS}: expected a number as face_scale, found {short(self.face_scale)}")
        for name in ("notice", "licence"):
            if not isinstance(getattr(self, name), str | None):
                raise CheckpointError(f"{CONVENTIONS}: expected a text as {name}, found {short(getattr(self, name))}")
        if not isinstance(self.known_questions_only, bool):
            found = short(self.known_questions_only)
            raise CheckpointError(f"{CONVENTIONS}: expected true or false as known_questions_only, found {found}")
        if (self.image_aspect == "align") != bool(self.anchors):
            raise CheckpointError(
                f"{CONVENTIONS}: image_aspect 'align' goes with anchors; found {short(self.image_aspect)}"
            )
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
                raise CheckpointError(
                    f"{CONVENTIONS}: {name} must be one of {allowed}, not {short(getattr(self, name))}"
                )


def read_anchors(stated: Any, points: int, path: Path) -> tuple[Anchor, ...]:
    """Anchors from lists of landmark, x and y.

    Args:
        stated: of a file.
        points: number of landmarks.
        path: of the file, for messages.
    """
    anchors = stated if isinstance(stated, list | tuple) else [stated]
    for anchor in anchors:
        fits = isinstance(anchor, list | tuple) and len(anchor) == 3 and all(map(is_number, anchor))
        if not fits or anchor[0] not in range(points):
            raise CheckpointError(
                f"{path}: expected anchors as lists of a landmark below {points}, x and y, found {short(anchor)}"
            )
    return tuple((int(index), x, y) for index, x, y in anchors)


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


def read_config(base: Path, vision_tower: Path | None, adapter: Path | None = None) -> EmolaConfig:
    """The shape of a model from the `config.json` of its folders, official or llava-hf.

    As in LLaVA, the file of the adapter, if it has one, decides about rows, projectors and length.

    Raises:
        CheckpointError: a key has a value that this model does not compute, or the adapter is of another base.
    """
    path = base / "config.json"
    content = read_json(path)
    llama = decoder_shape(decoder_keys(content, path), path)
    if is_llava_hf(base):  # pads the vocabulary beyond the tokenizer's
        llama.vocab_size = min(llama.vocab_size, load_tokenizer(base).vocab_size())
    stated = _adapter_content(adapter, llama)
    if content.get("unfreeze_mm_vision_tower") and vision_tower:
        raise CheckpointError(f"{path}: the base trained its vision tower (unfreeze_mm_vision_tower); pass no other")
    vision = _vision_config(content, base, vision_tower)
    if not 1 <= patch_side(vision) <= image_side(vision) <= MAX_SIDE:
        raise CheckpointError(f"{path}: patches of {patch_side(vision)} pixels in pictures of {image_side(vision)}")
    found = {**content, **{key: value for key, value in stated.items() if value is not None}}
    check_sizes(found, MODEL_SIZES, path)
    landmark_size = found.get("landmark_feature_hidden_size") or LANDMARK_FEATURES
    tokens: Tokens = found.get("emola_tokens") or "both"
    if tokens not in get_args(Tokens):
        raise CheckpointError(f"{path}: emola_tokens must be one of {get_args(Tokens)}, not {short(tokens)}")
    position: PriorPosition = found.get("emola_prior_position") or "after"
    if position not in get_args(PriorPosition):
        raise CheckpointError(f"{path}: emola_prior_position must be after or before, not {short(position)}")
    return EmolaConfig(
        text=llama,
        vision=vision,
        landmark_size=landmark_size,
        landmark_anchors=read_anchors(found.get("emola_landmark_anchors") or (), landmark_size // 2, path),
        vision_layer=feature_layer((stated, content), vision.num_hidden_layers, path),
        projector=str(found.get("mm_projector_type") or "mlp2x_gelu"),
        tokens=tokens,
        max_length=found.get("tokenizer_model_max_length") or 2048,
        prior_position=position,
        prior=_prior_name(found.get("emola_prior") or LANDMARKS, path),
    )


def _prior_name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: expected the name of a prior as emola_prior, found {short(name)}")
    return name if name == LANDMARKS else find_prior(name).name


def _adapter_content(adapter: Path | None, base: LlamaConfig) -> dict[str, Any]:
    """The configuration of an adapter, if it has one, compared with the decoder of the base."""
    if adapter is None or not (adapter / "config.json").is_file():
        return {}
    content = read_json(adapter / "config.json")
    compare_with_base(content, adapter / "config.json", base)
    return content


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
        path = vision_tower / "config.json"
        found = read_json(path)
        return tower_shape(found.get("vision_config", found), path)
    if "vision_config" in content:
        return tower_shape(content["vision_config"], base / "config.json")
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


def read_statistics(*folders: Path | None) -> ImageStatistics:
    """Mean and standard deviation from the first `preprocessor_config.json` that states them, else CLIP's.

    Raises:
        CheckpointError: the file describes another preparation of pictures than CLIP's.
    """
    for folder in filter(None, folders):
        path = folder / "preprocessor_config.json"
        content = read_json(path) if path.is_file() else {}
        check_processor(content, path)
        if "image_mean" in content and "image_std" in content:
            mean, std = content["image_mean"], content["image_std"]
            for values in (mean, std):
                if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
                    raise CheckpointError(f"{path}: expected image_mean and image_std of three channels")
            if not all(0 <= value <= 1 for value in mean) or not all(LEAST_STD <= value <= MOST_STD for value in std):
                raise CheckpointError(
                    f"{path}: expected image_mean in 0..1 and image_std in {LEAST_STD}..{MOST_STD}, "
                    f"found {mean} and {std}"
                )
            return ImageStatistics(tuple(mean), tuple(std))
    return ImageStatistics()


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return read_json_object(path, CheckpointError, advice="copy it again")
