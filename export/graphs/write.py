"""Stage `graphs`: write what the runtime reads from a merged checkpoint: tokenizer, ONNX graphs, embedding table."""

import logging
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxscript  # noqa: F401 - torch's exporter imports it hours later
import torch

from export.graphs.decoder import Llama, Precision, Weight, write_decoder
from export.graphs.half import compute_in_half, store_in_half
from export.graphs.tokenizer import check_tokenizer, convert_tokenizer
from export.model import DecoderWeights, VisionModule, geometry, rope_theta
from export.quantise.autogptq import GptqWeights
from sdk.errors import ExportError
from sdk.faba.prompts import IMAGE, QUESTIONS, TEMPLATES
from trainer.checkpoint import Checkpoint
from trainer.model.config import preprocessing
from trainer.tokenization import load_tokenizer

_INLINE_BYTES = 1 << 30  # of weights that torch's exporter writes into the graph's own file, which can hold 2 GB
_MAPPED_BYTES = 1 << 26  # of a graph, above which the weights get a file of their own: a runtime maps it into memory
_ROUNDING = 1e-5  # relative change of a large encoder's weights; the vision stage must be within 1e-4 of torch


def write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    landmark_model: Path | None,
    precision: Precision,
    gptq: Path | None = None,
    *,
    half: bool = False,
    cuda: bool = False,
) -> dict[str, int]:
    """Write every file that the runtime opens.

    Args:
        checkpoint: complete, with LoRA merged.
        landmark_model: ONNX file with the interface of 2d106det, or None.
        precision: of the decoder.
        gptq: folder of the decoder's weights if GPTQ quantised them.
        half: also write the vision encoder in float16, for TensorRT.
        cuda: also write the decoder's graph in float16. It refers to the same file of weights.

    Returns:
        The size in bytes of each file.
    """
    write_tokenizer(checkpoint, folder / "tokenizer.json")
    write_vision(checkpoint, folder / "vision.onnx")
    if half:
        write_vision(checkpoint, folder / "vision-half.onnx", torch.float16)
    if landmark_model:
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
    """The path of the float16 graph that belongs to a decoder graph."""
    return graph.removesuffix(".onnx") + "-half.onnx"


def write_tokenizer(checkpoint: Checkpoint, path: Path) -> None:
    """Write `tokenizer.json` and compare it with SentencePiece on every fixed prompt."""
    processor = load_tokenizer(checkpoint.base)
    tokenizer = convert_tokenizer(processor)
    prompts = [template.prompt(question) for template in TEMPLATES.values() for question in QUESTIONS.values()]
    texts = [part for prompt in prompts for part in prompt.split(IMAGE)]
    check_tokenizer(tokenizer, processor, [*texts, "AU4 (Brow Lowerer): naïve 😀\n\n  two blanks."])
    tokenizer.save(str(path))


def write_vision(checkpoint: Checkpoint, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the graph of the vision tower, up to the layer that is read, and of both projectors.

    Args:
        checkpoint: complete, with LoRA merged.
        path: the .onnx file.
        dtype: of weights and arithmetic; inputs and outputs are float32. TensorRT builds strongly typed engines from a
            float16 graph.
    """
    config = checkpoint.config
    module = VisionModule(checkpoint, dtype)
    side = preprocessing(config, checkpoint.conventions, checkpoint.statistics).image_size
    example = (torch.zeros(2, 3, side, side), torch.zeros(2, config.landmark_size))
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals and about torchvision
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=["pixel_values", "landmark_features"],
            output_names=["rows"],
            dynamic_shapes=({0: batch}, {0: batch}),
        )
    if program is None:
        raise ExportError(f"torch {torch.__version__} returned no graph of the vision encoder")
    large = module.bytes() > _INLINE_BYTES
    program.save(str(path), external_data=large)
    del program, module  # the weights are in the files; the next lines read them
    model = store_in_half(_without_metadata(onnx.load(path)), _ROUNDING if large else 0.0)
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx would append to it
    if model.ByteSize() > _MAPPED_BYTES:
        onnx.save(model, path, save_as_external_data=True, location=data.name)
    else:
        onnx.save(model, path)


def _without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes, which hold paths of this machine and a seventh of a small graph."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    return model


def write_embeddings(checkpoint: Checkpoint, path: Path) -> None:
    """Write the token table in float16 where that is exact, otherwise in float32."""
    table = checkpoint.merged["language_model.model.embed_tokens.weight"]
    half = table.to(torch.float16)
    np.save(path, (half if torch.equal(half.to(table.dtype), table) else table.float()).numpy())


def llama(checkpoint: Checkpoint, weights: Mapping[str, Weight] | None = None) -> Llama:
    """The decoder of a checkpoint for `write_decoder`, with the given weights or with its own."""
    config = checkpoint.config
    return Llama(
        DecoderWeights(checkpoint) if weights is None else weights,
        geometry(config),
        rope_theta(config.text),
        config.text.rms_norm_eps,
    )
