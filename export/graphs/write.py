"""Stage `graphs`: a merged checkpoint becomes what the runtime reads: tokenizer, ONNX graphs, embedding table."""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from export.graphs.decoder import Llama, Precision, write_decoder
from export.graphs.half import compute_in_half, store_in_half
from export.graphs.tokenizer import check_tokenizer, convert_tokenizer
from export.quantise.autogptq import GptqWeights
from export.targets.plan import Workload, stored_decoder
from sdk.bundles.manifest import Geometry
from sdk.errors import ExportError
from sdk.faba.prompts import IMAGE, QUESTIONS, TEMPLATES
from sdk.faces.preprocess import LANDMARK_SIDE
from trainer.checkpoint import Checkpoint
from trainer.model import EmoLA
from trainer.model.config import EmolaConfig
from trainer.model.weights import canonical_name
from trainer.tokenization import load_tokenizer

_INLINE = 1 << 30  # bytes of weights in the graph's own file, which can hold 2 GB


def write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    landmark_model: Path | None,
    precision: Precision,
    gptq: Path | None = None,
    *,
    half: bool = False,
    cuda: bool = False,
) -> dict[str, Any]:
    """Write every file that the runtime opens.

    Args:
        checkpoint: complete, LoRA merged.
        landmark_model: ONNX file with the interface of 2d106det, or None.
        precision: of the decoder.
        gptq: folder with the decoder's weights, if they are quantised already.
        half: also write the vision encoder in float16, for TensorRT.
        cuda: also write the decoder's graph in float16, on the same file of weights.
    """
    write_tokenizer(checkpoint, folder / "tokenizer.json")
    write_vision(checkpoint, folder / "vision.onnx")
    if half:
        write_vision(checkpoint, folder / "vision-half.onnx", torch.float16)
    if landmark_model:
        check_landmark_model(landmark_model, checkpoint.config.landmark_size)
        shutil.copyfile(landmark_model, folder / "landmark.onnx")
    decoder = folder / "decoder"
    decoder.mkdir()
    write_embeddings(checkpoint, decoder / "embeddings.npy")
    model = llama(checkpoint, GptqWeights(gptq) if gptq else None)
    graph = decoder / f"{precision.name}.onnx"
    write_decoder(model, graph, bits=precision.bits, head_bits=precision.head_bits)
    if cuda:
        onnx.save(compute_in_half(onnx.load(graph, load_external_data=False)), half_path(str(graph)))
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*.*"))}


def half_path(graph: str) -> str:
    """Of the float16 graph that belongs to a decoder graph."""
    return graph.removesuffix(".onnx") + "-half.onnx"


def write_tokenizer(checkpoint: Checkpoint, path: Path) -> None:
    """`tokenizer.json`, checked against SentencePiece on every text that the bundle asks."""
    processor = load_tokenizer(checkpoint.base)
    tokenizer = convert_tokenizer(processor)
    prompts = [template.prompt(question) for template in TEMPLATES.values() for question in QUESTIONS.values()]
    texts = [part for prompt in prompts for part in prompt.split(IMAGE)]
    check_tokenizer(tokenizer, processor, [*texts, "AU4 (Brow Lowerer): naïve 😀\n\n  two blanks."])
    tokenizer.save(str(path))


def write_vision(checkpoint: Checkpoint, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """The vision tower up to the layer that is read, and both projectors: pixels and landmarks -> rows.

    Args:
        dtype: of weights and arithmetic; what flows in and out is float32. A float16 graph is what TensorRT builds
            strongly typed engines from.
    """
    config = checkpoint.config
    encoder = Encoder(checkpoint, dtype)
    size = config.vision.image_size
    example = (torch.zeros(2, 3, size, size), torch.zeros(2, config.landmark_size))
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own internals, and about torchvision
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            encoder,
            example,
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=["pixel_values", "landmark_features"],
            output_names=["rows"],
            dynamic_shapes=({0: batch}, {0: batch}),
        )
    large = encoder.bytes() > _INLINE
    program.save(str(path), external_data=large)
    if not large:
        onnx.save(store_in_half(onnx.load(path)), path)


def write_embeddings(checkpoint: Checkpoint, path: Path) -> None:
    """The token table in float16 where that is exact, else in float32."""
    table = checkpoint.merged["language_model.model.embed_tokens.weight"]
    half = table.to(torch.float16)
    np.save(path, (half if torch.equal(half.to(table.dtype), table) else table.float()).numpy())


def llama(checkpoint: Checkpoint, weights: "Mapping[str, Any] | None" = None) -> Llama:
    """The decoder of a checkpoint for `export.graphs.decoder`, with its own weights or with given ones."""
    text = checkpoint.config.text
    return Llama(
        _DecoderWeights(checkpoint.merged) if weights is None else weights,
        geometry(checkpoint.config),
        text.rope_parameters["rope_theta"],
        text.rms_norm_eps,
    )


def geometry(config: EmolaConfig) -> Geometry:
    text = config.text
    return Geometry(
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=text.head_dim,
        vocabulary=text.vocab_size,
        context=min(text.max_position_embeddings, config.max_length),
        intermediate_size=text.intermediate_size,
    )


def decoder_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of the decoder by its name in Hugging Face's Llama."""
    with torch.device("meta"):
        return {name: tuple(w.shape) for name, w in LlamaForCausalLM(checkpoint.config.text).state_dict().items()}


def workload(checkpoint: Checkpoint, name: str, precision: Precision, group: int) -> Workload:
    """What `export.targets.plan` needs to know of a checkpoint whose decoder is stored in a given precision."""
    with torch.device("meta"):
        model = EmoLA(checkpoint.config)
    encoders = (model.vision_tower, model.mm_projector, model.landmark_feature_projector)
    weights = sum(parameter.numel() for part in encoders for parameter in part.parameters())
    shape = geometry(checkpoint.config)
    bits, head_bits = (precision.bits, precision.head_bits) if precision.bits else (32, 32)
    halved = checkpoint.merged["language_model.model.norm.weight"].dtype == torch.float16  # see `write_embeddings`
    return Workload(
        name,
        shape,
        (stored_decoder(precision.name, shape, bits, head_bits, group),),
        weights,
        checkpoint.config.image_rows,
        (2 if halved else 4) * shape.vocabulary * shape.hidden_size,
    )


def check_landmark_model(path: Path, size: int) -> None:
    """An ONNX file that takes (N, 3, 192, 192) and gives (N, size), as 2d106det does.

    Raises:
        ExportError: says what it takes and gives instead.
    """
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's own type is not public
        raise ExportError(f"{path} is not an ONNX file: {error}") from None
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in weights]
    outputs = [_shape(value) for value in graph.output]
    if [shape[1:] for shape in inputs] != [(3, LANDMARK_SIDE, LANDMARK_SIDE)] or [s[-1:] for s in outputs] != [(size,)]:
        raise ExportError(
            f"{path}: expected one input (N, 3, {LANDMARK_SIDE}, {LANDMARK_SIDE}) and one output (N, {size}) as in "
            f"2d106det.onnx; found {inputs} and {outputs}"
        )


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


class Encoder(nn.Module):
    """`EmoLA.encode` as a module of its own, without the decoder's weights."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with init_empty_weights(include_buffers=False):
            self.emola = EmoLA(checkpoint.config)
        del self.emola.language_model
        names = self.emola.state_dict()
        weights = {name: checkpoint.merged[canonical_name(name) or name].to(dtype) for name in names}
        self.emola.load_state_dict(weights, assign=True)
        self.eval()

    def forward(self, pixel_values: Tensor, landmark_features: Tensor) -> Tensor:
        return self.emola.encode(pixel_values, landmark_features).float()

    def bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())


class _DecoderWeights(Mapping[str, npt.NDArray[np.float32]]):
    """The decoder's weights as float32 arrays, read one at a time."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        array: npt.NDArray[np.float32] = self._weights[f"language_model.{name}"].float().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        prefix = "language_model."
        return (name.removeprefix(prefix) for name in self._weights if name.startswith(prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
