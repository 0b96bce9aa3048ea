"""Stage `reference`: what the torch model computes for a few pictures, for `emola verify`."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from export.model import VisionModule
from sdk.arrays import Floats, Ints, Pixels
from sdk.faba.prompts import QUESTIONS, TEMPLATES, Task
from sdk.faces.crop import aligned_face
from sdk.faces.preprocess import landmark_pixels, vision_pixels
from sdk.progress import Progress
from sdk.runtime.backends.ort import OrtEncoder
from sdk.runtime.verify import Reference
from trainer.checkpoint import Checkpoint
from trainer.model.config import preprocessing
from trainer.model.emola import EmoLA
from trainer.model.memory import release_memory
from trainer.model.processor import Arithmetic, Device
from trainer.tokenization import load_tokenizer, prompt_ids

SAMPLES, STEPS = 2, 24


def write_reference(
    checkpoint: Checkpoint,
    landmark_model: Path | None,
    folder: Path,
    *,
    device: Device = "auto",
    exact: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compute the reference, write it into a folder, and record the arithmetic of the decoder as `computed`.

    Args:
        checkpoint, landmark_model, report: as in `compute_reference`.
        folder: of the stage.
        device, exact: as in `choose_arithmetic`.
    """
    arithmetic = checkpoint.arithmetic(device, exact=exact)
    compute_reference(checkpoint, landmark_model, arithmetic, report).save(folder / "reference.npz")
    return {"computed": str(arithmetic)}


def compute_reference(
    checkpoint: Checkpoint,
    landmark_model: Path | None,
    arithmetic: Arithmetic = Arithmetic(),  # noqa: B008 - frozen
    report: Callable[[str], None] = lambda line: None,
) -> Reference:
    """Run a checkpoint on generated pictures: the encoders in float32, then the decoder.

    Args:
        checkpoint: complete, with LoRA merged.
        landmark_model: ONNX file of the landmark network; None uses random landmark features.
        arithmetic: of the decoder.
        report: called with one line per answer, or per pass through the layers.
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
    rows = _encode(checkpoint, pixels, features)
    release_memory()  # of the encoders
    logits, token_ids = _answer(checkpoint, tasks, rows, arithmetic, report)
    return Reference(tasks, inputs, features, pixels, rows.numpy(), logits, token_ids)


@torch.inference_mode()
def _encode(checkpoint: Checkpoint, pixels: Floats, features: Floats) -> Tensor:
    """Rows of each picture, (B, rows, D)."""
    rows: Tensor = VisionModule(checkpoint)(torch.from_numpy(pixels), torch.from_numpy(features))
    return rows


@torch.inference_mode()
def _answer(
    checkpoint: Checkpoint,
    tasks: tuple[Task, ...],
    rows: Tensor,
    arithmetic: Arithmetic,
    report: Callable[[str], None],
) -> tuple[Floats, Ints]:
    """First logits and greedy tokens of each picture and task.

    A decoder in memory answers one question after another. One that is read layer by layer answers all at once: each
    layer is read once per token.
    """
    progress, passes = Progress(report), count(1)
    layers = checkpoint.config.text.num_hidden_layers

    def ran(index: int) -> None:
        progress.at(next(passes), STEPS * layers, f"torch answers, layer {index + 1} of {layers}")

    model = checkpoint.load_for(arithmetic, encoders=False, ran=ran)
    tokenizer = load_tokenizer(checkpoint.base)
    template = TEMPLATES[checkpoint.conventions.template]
    ids = [prompt_ids(tokenizer, template.prompt(QUESTIONS[task])) for task in tasks]
    prompts = [_fused(model, one, sample) for sample in rows.to(arithmetic.device) for one in ids]
    batches = [prompts] if arithmetic.layerwise else [[prompt] for prompt in prompts]
    answers: list[tuple[Floats, Ints]] = []
    for number, batch in enumerate(batches):
        progress.at(number, len(batches), "torch answers")
        answers += _greedy(model, batch)
    shape = (len(rows), len(tasks), -1)
    logits, token_ids = (np.stack(part).reshape(shape) for part in zip(*answers, strict=True))
    return logits, token_ids


def _fused(model: EmoLA, ids: list[int], rows: Tensor) -> Tensor:
    """(T, D) input rows of the decoder for one question about one picture."""
    return model.fuse(torch.tensor([ids], device=rows.device), rows[None]).embeds[0]


def _greedy(model: EmoLA, prompts: list[Tensor]) -> list[tuple[Floats, Ints]]:
    """First logits and greedy tokens by Hugging Face's `generate`, which does not stop at an end token here.

    Args:
        prompts: (T, D) each; shorter ones are padded on the left and the padding is masked.
    """
    embeds = pad_sequence(prompts, batch_first=True, padding_side="left")
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeds.device)
    last = embeds.shape[1] - 1
    mask = torch.arange(last, -1, -1, device=embeds.device)[None] < lengths[:, None]
    language_model: Any = model.language_model  # transformers declares `generate` for a type that no model has
    result = language_model.generate(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    first = result.logits[0].float().cpu().numpy()
    return list(zip(first, result.sequences.cpu().numpy().astype(np.int32), strict=True))


def _picture(seed: int, side: int = 224) -> Pixels:
    """A smooth random picture: parity needs inputs in a natural range, not faces."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def _features(size: int) -> Floats:
    return np.random.default_rng(0).uniform(-1, 1, (SAMPLES, size)).astype(np.float32)
