"""Stage `reference`: what the torch model computes for a few pictures, for `emola verify`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdk.arrays import Floats, Ints, Pixels
from sdk.faba.prompts import QUESTIONS, TEMPLATES, Task
from sdk.faces.crop import aligned_face
from sdk.faces.preprocess import landmark_pixels, vision_pixels
from sdk.runtime.backends.ort import OrtEncoder
from sdk.runtime.verify import Reference
from trainer.checkpoint import Checkpoint
from trainer.model.config import preprocessing
from trainer.model.emola import EmoLA
from trainer.tokenization import load_tokenizer, prompt_ids

SAMPLES, STEPS = 2, 24


def write_reference(checkpoint: Checkpoint, landmark_model: Path | None, folder: Path) -> dict[str, Any]:
    """Compute the reference and write it into a folder; there are no figures to record."""
    compute_reference(checkpoint, landmark_model).save(folder / "reference.npz")
    return {}


def compute_reference(checkpoint: Checkpoint, landmark_model: Path | None) -> Reference:
    """Run a checkpoint in float32 on generated pictures.

    Args:
        checkpoint: complete, with LoRA merged.
        landmark_model: ONNX file of the landmark network; None uses random landmark features.
    """
    pictures = [_picture(seed) for seed in range(SAMPLES)]
    conventions, config = checkpoint.conventions, checkpoint.config
    settings = preprocessing(config, conventions, checkpoint.statistics)
    crops = [aligned_face(picture, conventions.face_scale) for picture in pictures]
    inputs, features = np.empty((0, 3, 192, 192), np.float32), _features(config.landmark_size)
    if landmark_model:
        mode = conventions.landmark_mode
        inputs = np.stack([landmark_pixels(c.pixels, mode=mode, box_xyxy=c.box_in_crop) for c in crops])
        features = OrtEncoder(landmark_model)(inputs)
    pixels = np.stack([vision_pixels(c, f, settings) for c, f in zip(crops, features, strict=True)])
    tasks = tuple(QUESTIONS)
    rows, logits, token_ids = _run(checkpoint, tasks, pixels, features)
    return Reference(tasks, inputs, features, pixels, rows, logits, token_ids)


def _run(
    checkpoint: Checkpoint, tasks: tuple[Task, ...], pixels: Floats, features: Floats
) -> tuple[Floats, Floats, Ints]:
    """Rows of each picture; first logits and greedy tokens of each picture and task."""
    model = checkpoint.load(dtype=torch.float32)
    tokenizer = load_tokenizer(checkpoint.base)
    template = TEMPLATES[checkpoint.conventions.template]
    with torch.inference_mode():
        rows = model.encode(torch.from_numpy(pixels), torch.from_numpy(features))
        answers = [
            [_greedy(model, prompt_ids(tokenizer, template.prompt(QUESTIONS[task])), sample[None]) for task in tasks]
            for sample in rows
        ]
    logits = np.stack([[first for first, _ in row] for row in answers])
    token_ids = np.stack([[ids for _, ids in row] for row in answers])
    return rows.numpy(), logits, token_ids


def _greedy(model: EmoLA, ids: list[int], rows: torch.Tensor) -> tuple[Floats, Ints]:
    """First logits and greedy tokens by Hugging Face's `generate`, which does not stop at an end token here."""
    fused = model.fuse(torch.tensor([ids]), rows)
    language_model: Any = model.language_model  # transformers declares `generate` for a type that no model has
    result = language_model.generate(
        inputs_embeds=fused.embeds,
        attention_mask=fused.attention_mask.long(),
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return result.logits[0][0].float().numpy(), result.sequences[0].numpy().astype(np.int32)


def _picture(seed: int, side: int = 224) -> Pixels:
    """A smooth random picture: parity needs inputs in a natural range, not faces."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def _features(size: int) -> Floats:
    return np.random.default_rng(0).uniform(-1, 1, (SAMPLES, size)).astype(np.float32)
