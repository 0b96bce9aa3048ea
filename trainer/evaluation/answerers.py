"""Answerers of an evaluation that need more than a bundle: a torch model, an OpenAI-compatible endpoint."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor

from sdk.bundles.files import file_sha256
from sdk.faba.prompts import TEMPLATES
from trainer.checkpoint import Checkpoint
from trainer.corpus.endpoint import ChatEndpoint, QuestionError
from trainer.corpus.records import Record
from trainer.corpus.tensors import Encoding
from trainer.evaluation.bundle_answerer import Refused, pruning_suffix
from trainer.model.config import CONVENTIONS
from trainer.model.processor import Arithmetic
from trainer.tokenization import load_tokenizer, prompt_ids


class TorchAnswerer:
    """A checkpoint in torch.

    Args:
        checkpoint: opened files.
        arithmetic: of the model.
        batch_size: preferred number of records; a model that fills the memory takes two at most.
        max_new_tokens: limit of an answer.
        visual_tokens: as in `sdk.Analyzer`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arithmetic: Arithmetic,
        batch_size: int,
        max_new_tokens: int,
        visual_tokens: int | None = None,
    ) -> None:
        folder = checkpoint.adapter or checkpoint.base
        card = folder / CONVENTIONS  # distinguishes two trainings in folders of the same name
        digest = file_sha256(card)[:12] if card.is_file() else ""
        dtype = str(arithmetic.dtype).removeprefix("torch.")
        self.name = f"torch {folder.name} {digest} {dtype}, {max_new_tokens} tokens"
        self.name += pruning_suffix(visual_tokens)
        self.batch_size = min(batch_size, 2) if arithmetic.fills_memory else batch_size
        self._device, self._max_new_tokens, self._visual_tokens = arithmetic.device, max_new_tokens, visual_tokens
        self._model = checkpoint.load_for(arithmetic)
        self._tokenizer = load_tokenizer(checkpoint.base)
        self._encoding = Encoding(checkpoint.config, checkpoint.conventions, checkpoint.statistics, self._tokenizer)

    def answer(self, records: Sequence[Record]) -> list[str]:
        answers: dict[int, str] = {}
        for question in dict.fromkeys(record.question for record in records):  # equal questions need no padding
            group = [index for index, record in enumerate(records) if record.question == question]
            texts = self._answer_one_question(question, [records[index] for index in group])
            answers |= dict(zip(group, texts, strict=True))
        return [answers[index] for index in range(len(records))]

    @torch.inference_mode()
    def _answer_one_question(self, question: str, records: list[Record]) -> list[str]:
        prompt = TEMPLATES[self._encoding.conventions.template].prompt(question)
        ids = torch.tensor([prompt_ids(self._tokenizer, prompt)] * len(records), device=self._device)
        pictures, ranks = zip(*(self._encoding.ranked_pixels(record) for record in records), strict=True)
        pixels, patches = torch.stack(pictures).to(self._device), torch.stack(ranks).to(self._device)
        landmarks = torch.stack([self._encoding.landmarks(record) for record in records]).to(self._device)
        kept = patches[:, : self._visual_tokens] if self._visual_tokens else None
        fused = self._model.fuse(ids, self._model.encode(pixels, landmarks, kept))
        decoder = cast(Any, self._model.language_model)  # transformers' types do not let a LlamaForCausalLM generate
        tokens: Tensor = decoder.generate(
            inputs_embeds=fused.embeds,
            attention_mask=fused.attention_mask.long(),
            do_sample=False,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._tokenizer.eos_id(),
            pad_token_id=self._tokenizer.eos_id(),
        )
        return [self._decode(row) for row in tokens.tolist()]

    def _decode(self, token_ids: list[int]) -> str:
        end = self._tokenizer.eos_id()
        kept = token_ids[: token_ids.index(end)] if end in token_ids else token_ids
        return str(self._tokenizer.decode(kept)).strip()


class EndpointAnswerer:
    """A multimodal model behind an OpenAI-compatible endpoint (Table 7); a batch is asked concurrently."""

    def __init__(self, endpoint: ChatEndpoint, batch_size: int, max_new_tokens: int) -> None:
        self._endpoint, self.batch_size, self._max_new_tokens = endpoint, batch_size, max_new_tokens
        self.name = f"endpoint {endpoint.model}, {max_new_tokens} tokens"

    def answer(self, records: Sequence[Record]) -> "list[str | Refused]":
        with ThreadPoolExecutor(self.batch_size) as pool:
            return list(pool.map(self._answer_one, records))

    def _answer_one(self, record: Record) -> "str | Refused":
        try:
            return self._endpoint.ask(record.image_path.read_bytes(), record.question, self._max_new_tokens).text
        except QuestionError as error:
            return Refused(str(error))
