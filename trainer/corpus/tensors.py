"""Records as tensors, for training and evaluation."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sdk.arrays import Floats
from sdk.faba.prompts import TEMPLATES
from sdk.faces.crop import FaceCrop, aligned_face
from sdk.faces.images import load_image
from sdk.faces.patches import patch_order
from sdk.faces.preprocess import Preprocessing, vision_pixels
from trainer.corpus.records import Record, read_landmarks
from trainer.model.config import Conventions, EmolaConfig, ImageStatistics, patches_per_side, preprocessing
from trainer.tokenization import IGNORED, conversation_ids


@dataclass(frozen=True)
class Encoding:
    """Turns records into tensors, by the shape of the model, the conventions and the tokenizer."""

    config: EmolaConfig
    conventions: Conventions
    statistics: ImageStatistics
    tokenizer: sentencepiece.SentencePieceProcessor

    def pixels(self, record: Record) -> Tensor:
        """(3, S, S) CLIP pixels."""
        return torch.from_numpy(vision_pixels(*self._face(record, bool(self.conventions.anchors))))

    def ranked_pixels(self, record: Record) -> tuple[Tensor, Tensor]:
        """`pixels`, and (patches,) indices of their patches, the most informative first."""
        side = patches_per_side(self.config.vision)
        face = self._face(record, self.conventions.landmark_mode == "insightface")
        return torch.from_numpy(vision_pixels(*face)), torch.from_numpy(patch_order(*face, side))

    def _face(self, record: Record, located: bool) -> tuple[FaceCrop, Floats, Preprocessing]:
        """Crop, landmark feature and settings; the feature is read only if its points are needed."""
        crop = aligned_face(load_image(record.image_path), self.conventions.face_scale)
        features = read_landmarks(record, self.config.landmark_size) if located else np.empty(0, np.float32)
        return crop, features, preprocessing(self.config, self.conventions, self.statistics)

    def landmarks(self, record: Record) -> Tensor:
        """(212,) landmark feature; zeros if the decoder does not see it, so that a set needs no landmark files."""
        if self.config.tokens == "visual":
            return torch.zeros(self.config.landmark_size)
        return torch.from_numpy(read_landmarks(record, self.config.landmark_size))

    def tokens(self, record: Record) -> tuple[list[int], list[int]]:
        """Input ids and labels."""
        return conversation_ids(self.tokenizer, TEMPLATES[self.conventions.template], record.question, record.answer)


class RecordDataset(Dataset[dict[str, Any]]):
    """Training records, tokenised on access; with `ranked` each item holds the ranking of its patches."""

    def __init__(self, records: Sequence[Record], encoding: Encoding, ranked: bool = False) -> None:
        self._records, self._encoding, self._ranked = records, encoding, ranked

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        input_ids, labels = self._encoding.tokens(record)
        item = {"input_ids": input_ids, "labels": labels, "landmarks": self._encoding.landmarks(record)}
        if self._ranked:
            item["pixel_values"], item["patches"] = self._encoding.ranked_pixels(record)
        else:
            item["pixel_values"] = self._encoding.pixels(record)
        return item

    def lengths(self) -> list[int]:
        """Number of tokens of each record, for grouping; the image counts as one."""
        return [len(self._encoding.tokens(record)[0]) for record in self._records]


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack records into a batch, padded on the right."""

    def pad(key: str, fill: int) -> Tensor:
        rows = [torch.tensor(item[key]) for item in items]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)

    input_ids = pad("input_ids", 0)
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    stacked = [key for key in ("pixel_values", "landmarks", "patches") if key in items[0]]
    return {
        "input_ids": input_ids,
        "labels": pad("labels", IGNORED),
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        **{key: torch.stack([item[key] for item in items]) for key in stacked},
    }


class RecordOrder(Sampler[int]):
    """The order in which records are trained, which depends only on seed and epoch, so that a resumed run repeats it.

    With lengths, the records of an optimizer step are assigned to its forward passes so that the passes have similar
    numbers of tokens, as in LLaVA's trainer. The records of a step stay random: steps of short answers alone would bias
    the model towards short answers.

    Args:
        count: number of records.
        batch_size: records of one forward pass.
        passes: forward passes of one optimizer step, over all processes.
        seed: of the run.
        lengths: tokens of each record; None: shuffle only.
    """

    def __init__(
        self, count: int, batch_size: int, passes: int, seed: int, lengths: Sequence[int] | None = None
    ) -> None:
        self._count, self._batch_size, self._passes, self._seed = count, batch_size, passes, seed
        self._lengths, self._epoch = lengths, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._count, generator=generator).tolist()
        if self._lengths is None:
            return iter(order)
        together = self._batch_size * self._passes
        steps = (order[start : start + together] for start in range(0, self._count, together))
        return (index for step in steps for index in self._assign(step))

    def _assign(self, step: list[int]) -> Iterator[int]:
        """Assign the records of a step, longest first, each to the pass that has the fewest tokens."""
        if len(step) < self._batch_size * self._passes:
            return iter(step)  # the end of an epoch
        lengths, passes = self._lengths or (), [list[int]() for _ in range(self._passes)]
        totals = [0] * self._passes
        for index in sorted(step, key=lambda index: -lengths[index]):
            open_passes = (number for number, assigned in enumerate(passes) if len(assigned) < self._batch_size)
            chosen = min(open_passes, key=totals.__getitem__)
            passes[chosen].append(index)
            totals[chosen] += lengths[index]
        return itertools.chain.from_iterable(passes)


class FixedOrder(RecordOrder):
    """A given order, to repeat the run of another program."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__(len(order), 1, 1, 0)
        self._order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)
