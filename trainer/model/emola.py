"""EmoLA: a language model that reads a face as CLIP rows and one landmark row (Sec. 4 of the paper)."""

import re
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from sdk.errors import CheckpointError
from trainer.model.alignment import AlignedShape
from trainer.model.config import EmolaConfig
from trainer.model.priors import LANDMARKS, find_prior
from trainer.tokenization import IGNORED, IMAGE_TOKEN


class Fused(NamedTuple):
    """The sequence that the decoder reads, padded on the right."""

    embeds: Tensor  # (B, T, D)
    attention_mask: Tensor  # (B, T) bool
    labels: Tensor  # (B, T), -100 where nothing is trained


class EmoLA(nn.Module):
    """The model of the paper on transformers' Llama and CLIP.

    Parameters start at random; `trainer.checkpoint` loads them from files.
    """

    def __init__(self, config: EmolaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = CLIPVisionModel(config.vision)
        self.mm_projector = new_projector(config.projector, config.vision.hidden_size, config.text.hidden_size)
        self.landmark_feature_projector = new_landmark_projector(config)
        self.language_model = LlamaForCausalLM(config.text)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        landmarks: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> "Tensor | CausalLMOutput":
        """Logits over the fused sequence.

        Args:
            input_ids: (B, L) token ids with one -200 per record where the image rows belong.
            pixel_values: (B, 3, S, S) normalised CLIP pixels.
            landmarks: (B, 212) raw outputs of the landmark network.
            attention_mask: (B, L), 0 where `input_ids` is padding; None: no padding.
            labels: (B, L) token ids, -100 where nothing is trained.
            patches: (B, K) indices of the visual rows that the decoder reads; None: all.

        Returns:
            (B, T, vocabulary) logits, T = longest record + image rows - 1, padded on the right; with `labels`,
            an output with `loss` (mean over the trained tokens) and the `logits` from the first trained token on. The
            logits of picture and question, three quarters of a record, would take gigabytes and are not trained.
        """
        fused = self.fuse(input_ids, self.encode(pixel_values, landmarks, patches), attention_mask, labels)
        padded = None if bool(fused.attention_mask.all()) else fused.attention_mask
        first = 1 if labels is None else max(1, int((fused.labels != IGNORED).any(0).int().argmax()))
        kept = 0 if labels is None else fused.labels.shape[1] - first + 1
        logits = self.language_model(
            inputs_embeds=fused.embeds, attention_mask=padded, use_cache=False, logits_to_keep=kept
        ).logits
        if labels is None:
            return cast(Tensor, logits)
        loss = nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), fused.labels[:, first:].flatten(), ignore_index=IGNORED
        )
        return CausalLMOutput(loss=loss, logits=logits)

    def encode(self, pixel_values: Tensor, landmarks: Tensor, patches: Tensor | None = None) -> Tensor:
        """(B, rows, D): the projected patches of the vision tower, then (or before) the projected landmark feature.

        Args:
            pixel_values, landmarks, patches: as in `forward`; kept patches stay in the order of the picture.
        """
        dtype = next(self.mm_projector.parameters()).dtype
        rows = []
        if self.config.tokens != "prior":
            hidden = self.vision_tower(pixel_values.to(dtype), output_hidden_states=True).hidden_states
            visual = hidden[self.config.vision_layer][:, 1:]
            if patches is not None:
                visual = visual.take_along_dim(patches.sort(dim=1).values[..., None], dim=1)
            rows.append(self.mm_projector(visual))
        if self.config.tokens != "visual":
            raw = self.config.prior == LANDMARKS and not self.config.landmark_anchors
            feature = landmarks.to(dtype) if raw else landmarks  # keeps small moves
            rows.append(self.landmark_feature_projector(feature)[:, None])
        if self.config.prior_position == "before":
            rows.reverse()
        return torch.cat(rows, dim=1)

    def fuse(
        self, input_ids: Tensor, rows: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Fused:
        """Put the rows of each record in the place of its -200.

        Args:
            input_ids, attention_mask, labels: as in `forward`.
            rows: (B, rows, D) of `encode`.
        """
        labels = torch.full_like(input_ids, IGNORED) if labels is None else labels
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        records = [
            self._fuse_one(ids[keep], image, target[keep])
            for ids, image, target, keep in zip(input_ids, rows, labels, mask.bool(), strict=True)
        ]
        embeds, targets = ([part[: self.config.max_length] for part in parts] for parts in zip(*records, strict=True))
        lengths = torch.tensor([len(record) for record in embeds], device=rows.device)
        return Fused(
            embeds=nn.utils.rnn.pad_sequence(embeds, batch_first=True),
            attention_mask=torch.arange(int(lengths.max()), device=rows.device)[None] < lengths[:, None],
            labels=nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        )

    def _fuse_one(self, ids: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D) embeddings and (T,) labels of one record without padding."""
        places = (ids == IMAGE_TOKEN).nonzero().flatten().tolist()
        if len(places) != 1:
            raise ValueError(f"expected one image token ({IMAGE_TOKEN}) per record, found {len(places)}")
        words = self.language_model.get_input_embeddings()(ids.clamp(min=0))
        at = places[0]
        ignored = labels.new_full((len(rows),), IGNORED)
        return (
            torch.cat([words[:at], rows.to(words.dtype), words[at + 1 :]]),
            torch.cat([labels[:at], ignored, labels[at + 1 :]]),
        )


def new_landmark_projector(config: EmolaConfig) -> nn.Sequential:
    """Two linear layers, as in the authors' model; before them another prior or, with anchors, the alignment."""
    if config.prior != LANDMARKS:
        prior = find_prior(config.prior)
        return nn.Sequential(prior.make(), *new_projector("mlp2x_gelu", prior.size, config.text.hidden_size))
    layers = new_projector("mlp2x_gelu", config.landmark_size, config.text.hidden_size)
    if not config.landmark_anchors:
        return layers
    return nn.Sequential(AlignedShape(config.landmark_anchors, config.landmark_size), *layers)


def new_projector(kind: str, size: int, hidden: int) -> nn.Sequential:
    """A projector of kind "linear" or "mlpNx_gelu", N linear layers (at most 99) with GELU between, as in LLaVA-1.5."""
    match = re.fullmatch(r"mlp([1-9]\d?)x_gelu", kind)
    if not match and kind != "linear":
        raise CheckpointError(f"mm_projector_type {kind!r} is unknown; expected 'linear' or 'mlpNx_gelu'")
    layers: list[nn.Module] = [nn.Linear(size, hidden)]
    for _ in range(int(match[1]) - 1 if match else 0):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)
