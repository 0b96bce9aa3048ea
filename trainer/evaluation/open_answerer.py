"""Open the model that an evaluation asks: a bundle, a checkpoint, plain LLaVA-1.5 or an endpoint."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from sdk.bundles.hub import resolve_model
from sdk.bundles.manifest import MANIFEST
from sdk.errors import DataError
from sdk.faba.prompts import END, IMAGE
from trainer.checkpoint import Checkpoint, is_plain_llava, plain_llava
from trainer.corpus.endpoint import ChatEndpoint
from trainer.corpus.records import Record
from trainer.evaluation.answerers import EndpointAnswerer, TorchAnswerer
from trainer.evaluation.bundle_answerer import Answerer, BundleAnswerer, Refused
from trainer.evaluation.shards import Shard
from trainer.model.processor import Arithmetic


@dataclasses.dataclass(frozen=True)
class Request:
    """Which model is asked, and how.

    Attributes:
        model: folder or hub name of a bundle, an adapter, a complete checkpoint or LLaVA-1.5; None with an endpoint.
        base, vision_tower: as in `trainer.checkpoint.load_emola`.
        endpoint: address and name of a model behind an OpenAI-compatible endpoint.
        key: of the endpoint.
        device: "auto", "cpu", "cuda" or "tensorrt".
        batch_size, max_new_tokens, visual_tokens: as in `TorchAnswerer`.
        question: asked instead of that of the records.
        template, image_aspect: of a checkpoint, instead of its own conventions.
    """

    model: Path | None
    base: str | None = None
    vision_tower: str | None = None
    endpoint: tuple[str, str] | None = None
    key: str | None = None
    device: str = "auto"
    batch_size: int = 8
    max_new_tokens: int = 512
    visual_tokens: int | None = None
    question: str | None = None
    template: str | None = None
    image_aspect: Literal["pad", "crop"] | None = None


def open_answerer(request: Request) -> Answerer:
    """Open the model of a request.

    Raises:
        DataError: the options do not fit together, or the model is behind an endpoint that cannot take them.
        CheckpointError: the files form no model.
    """
    if request.question is None:
        return _open(request)
    if not request.question.strip() or IMAGE in request.question or END in request.question:
        raise DataError(f"expected a question without {IMAGE} and {END}, found {request.question!r}")
    return AskedDifferently(_open(request), request.question)


def _open(request: Request) -> Answerer:
    if request.endpoint:
        return _open_endpoint(request, *request.endpoint)
    if request.model is None:
        raise DataError("expected a model or an endpoint")
    model = resolve_model(str(request.model))
    if (model / MANIFEST).exists():
        _refuse(request, ("template", "image_aspect"), "a checkpoint; a bundle is asked as it was exported")
        limits = (request.max_new_tokens, request.visual_tokens)
        return BundleAnswerer.open(model, request.device, *limits)
    return _open_checkpoint(request, model)


def _open_endpoint(request: Request, url: str, model: str) -> Answerer:
    _refuse(
        request, ("visual_tokens", "template", "image_aspect"), "a bundle or a checkpoint; an endpoint does not take it"
    )
    if not model:
        raise DataError("--endpoint needs --model")
    return EndpointAnswerer(ChatEndpoint(url, model, request.key), request.batch_size, request.max_new_tokens)


def _open_checkpoint(request: Request, model: Path) -> Answerer:
    adapter = model if (model / "adapter_config.json").exists() else None
    if adapter and not request.base:
        raise DataError(f"{adapter} is an adapter: say which model it belongs to (--base)")
    base = request.base if adapter and request.base else model
    plain = adapter is None and is_plain_llava(base)
    tower = request.vision_tower
    checkpoint = plain_llava(base, tower) if plain else Checkpoint(adapter, base, tower)
    changes = _changes(request)
    checkpoint.conventions = dataclasses.replace(checkpoint.conventions, **changes)
    options = (_arithmetic(request, checkpoint), request.batch_size, request.max_new_tokens, request.visual_tokens)
    answerer = TorchAnswerer(checkpoint, *options)
    answerer.name += "".join(f", {value}" for value in changes.values() if value)
    return answerer


def _changes(request: Request) -> dict[str, Any]:
    """The conventions that the options replace."""
    changes: dict[str, Any] = {"template": request.template} if request.template else {}
    if request.image_aspect:
        changes |= {"image_aspect": request.image_aspect, "anchors": ()}
    return changes


def _arithmetic(request: Request, checkpoint: Checkpoint) -> Arithmetic:
    has_cuda = torch.cuda.is_available()
    if request.device == "tensorrt" or (request.device == "cuda" and not has_cuda):
        raise DataError(f"--device {request.device}: a checkpoint runs on auto, cpu or, where torch has CUDA, cuda")
    on_gpu = request.device != "cpu" and has_cuda
    if on_gpu:
        torch.cuda.set_device(Shard.of_environment().local_rank % torch.cuda.device_count())
    return Arithmetic(torch.bfloat16, "cuda") if on_gpu else checkpoint.arithmetic("cpu")


def _refuse(request: Request, names: Sequence[str], needs: str) -> None:
    for name in names:
        if getattr(request, name) is not None:
            raise DataError(f"--{name.replace('_', '-')} needs {needs}")


class AskedDifferently:
    """An answerer that is asked another question than that of the records.

    Args:
        answerer: gives the answers.
        question: without the image mark.
    """

    def __init__(self, answerer: Answerer, question: str) -> None:
        self._answerer, self._question = answerer, question
        self.name = f"{answerer.name}, asked {question!r}"
        self.batch_size = answerer.batch_size

    def answer(self, records: Sequence[Record]) -> "Sequence[str | Refused]":
        return self._answerer.answer([dataclasses.replace(record, question=self._question) for record in records])
