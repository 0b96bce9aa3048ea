"""A random EmoLA checkpoint at the full size, in the files that the authors released: base, CLIP, adapter, records.

    python benchmarks/full_size_checkpoint.py FOLDER [--layers 32] [--tiny]

Names, types and layout are those of the golden set: LLaVA-1.5-7B in float16 in two .bin files, CLIP-L/14-336 in
float16, LoRA of rank 128 in bfloat16, a tokenizer padded to 32,000 pieces. Weights are Gaussian with standard deviation
0.02, times a lognormal scale for each input and each output channel (sigma 0.3); one input channel in 512 is six times
as large. So rows have outliers, as real ones have. LoRA: A 0.01, B 0.005. With --tiny the same files are narrow.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentencepiece import sentencepiece_model_pb2 as pieces

from sdk.files import replacing

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden"
RECORDS = "FABAInstruct/train/train_anno.json"  # below `data`
VOCABULARY = 32000
LANDMARKS = 212


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, as their configurations name them.

    Attributes:
        text: of the decoder.
        clip: of the vision tower.
        rank: of LoRA.
    """

    text: dict[str, int]
    clip: dict[str, int]
    rank: int

    def decoder_config(self, layers: int) -> dict[str, int]:
        sizes = {"num_hidden_layers": layers, "vocab_size": VOCABULARY, "mm_hidden_size": self.clip["hidden_size"]}
        return {**self.text, **sizes}

    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each linear layer of a decoder layer."""
        width, wide = self.text["hidden_size"], self.text["intermediate_size"]
        attention = {f"self_attn.{part}_proj": (width, width) for part in "qkvo"}
        mlp = {"mlp.gate_proj": (wide, width), "mlp.up_proj": (wide, width), "mlp.down_proj": (width, wide)}
        return {**attention, **mlp}

    def layer_weights(self) -> int:
        """Number of weights of all linear layers of a decoder layer."""
        return sum(outputs * inputs for outputs, inputs in self.linears().values())

    def encoder_weights(self) -> int:
        """Number of weights of both projectors and of CLIP up to the last layer but one, whose rows are read."""
        width, wide, text = self.clip["hidden_size"], self.clip["intermediate_size"], self.text["hidden_size"]
        tower = (self.clip["num_hidden_layers"] - 1) * (4 * width**2 + 2 * width * wide)
        return tower + text * (width + LANDMARKS + 2 * text)


def _shape(width: int, wide: int, heads: int, rank: int, **clip: int) -> Shape:
    text = {"hidden_size": width, "intermediate_size": wide, "num_attention_heads": heads, "num_key_value_heads": heads}
    return Shape(text, clip, rank)


FULL = _shape(
    4096,
    11008,
    32,
    128,
    hidden_size=1024,
    intermediate_size=4096,
    image_size=336,
    num_attention_heads=16,
    num_hidden_layers=24,
    projection_dim=768,
)
TINY = _shape(
    256,
    640,
    2,
    8,
    hidden_size=64,
    intermediate_size=128,
    image_size=56,
    num_attention_heads=4,
    num_hidden_layers=4,
    projection_dim=32,
)
Weights = Iterator[tuple[str, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="narrow matrices, for tests")
    args = parser.parse_args()
    write_checkpoint(args.folder, args.layers, TINY if args.tiny else FULL)


def write_checkpoint(folder: Path, layers: int = 32, shape: Shape = FULL) -> None:
    """Write `base`, `clip`, `adapter` and `data` below a folder; parts that are there already are kept."""
    parts = {"base": _write_base, "clip": _write_clip, "adapter": _write_adapter, "data": _write_data}
    for seed, (name, write) in enumerate(parts.items()):
        if not (folder / name).is_dir():
            print(f"{folder / name} ...", file=sys.stderr, flush=True)
            with replacing(folder / name, folder=True) as partial:
                write(partial, layers, shape, torch.Generator().manual_seed(seed))


def _write_base(folder: Path, layers: int, shape: Shape, random: torch.Generator) -> None:
    config = _config("llava-base/config.json", **shape.decoder_config(layers), torch_dtype="float16")
    _write_json(folder / "config.json", config)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(GOLDEN / "llava-base" / name, folder / name)
    _pad_tokenizer(folder / "tokenizer.model")
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    places: dict[str, str] = {}
    for name, weights in zip(
        names, (_first_half(layers, shape, random), _second_half(layers, shape, random)), strict=True
    ):
        shard = {key: tensor.half() for key, tensor in weights}
        torch.save(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    _write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})


def _first_half(layers: int, shape: Shape, random: torch.Generator) -> Weights:
    yield "model.embed_tokens.weight", _matrix(VOCABULARY, shape.text["hidden_size"], random)
    for layer in range(math.ceil(0.75 * layers)):
        yield from _decoder_layer(layer, shape, random)


def _second_half(layers: int, shape: Shape, random: torch.Generator) -> Weights:
    width = shape.text["hidden_size"]
    for layer in range(math.ceil(0.75 * layers), layers):
        yield from _decoder_layer(layer, shape, random)
    yield "model.norm.weight", _gain(width, random)
    projector = _projector("mm_projector", width, shape.clip["hidden_size"], random)
    yield from ((f"model.{name}", tensor) for name, tensor in projector)
    yield "lm_head.weight", _matrix(VOCABULARY, width, random)


def _decoder_layer(layer: int, shape: Shape, random: torch.Generator) -> Weights:
    prefix = f"model.layers.{layer}."
    for name, (outputs, inputs) in shape.linears().items():
        yield f"{prefix}{name}.weight", _matrix(outputs, inputs, random)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{prefix}{name}.weight", _gain(shape.text["hidden_size"], random)


def _write_clip(folder: Path, layers: int, shape: Shape, random: torch.Generator) -> None:
    _write_json(folder / "config.json", _config("clip/config.json", **shape.clip, torch_dtype="float16"))
    side = shape.clip["image_size"]
    sizes = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    _write_json(folder / "preprocessor_config.json", _config("clip/preprocessor_config.json", **sizes))
    weights = {f"vision_model.{name}": tensor.half() for name, tensor in _clip_weights(shape.clip, random)}
    torch.save(weights, folder / "pytorch_model.bin")


def _clip_weights(clip: dict[str, int], random: torch.Generator) -> Weights:
    width, wide = clip["hidden_size"], clip["intermediate_size"]
    positions = (clip["image_size"] // 14) ** 2 + 1
    yield "embeddings.class_embedding", 0.02 * torch.randn(width, generator=random)
    yield "embeddings.patch_embedding.weight", 0.02 * torch.randn(width, 3, 14, 14, generator=random)
    yield "embeddings.position_embedding.weight", 0.02 * torch.randn(positions, width, generator=random)
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield from _layer_norm(norm, width, random)
    shapes = {**{f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}}
    shapes |= {"mlp.fc1": (wide, width), "mlp.fc2": (width, wide)}
    for layer in range(clip["num_hidden_layers"]):
        for name, (outputs, inputs) in shapes.items():
            yield f"encoder.layers.{layer}.{name}.weight", 0.02 * torch.randn(outputs, inputs, generator=random)
            yield f"encoder.layers.{layer}.{name}.bias", 0.02 * torch.randn(outputs, generator=random)
        for norm in ("layer_norm1", "layer_norm2"):
            yield from _layer_norm(f"encoder.layers.{layer}.{norm}", width, random)


def _layer_norm(name: str, width: int, random: torch.Generator) -> Weights:
    yield f"{name}.weight", _gain(width, random)
    yield f"{name}.bias", 0.02 * torch.randn(width, generator=random)


def _write_adapter(folder: Path, layers: int, shape: Shape, random: torch.Generator) -> None:
    adapter = _config("llava-lora-emola-init/adapter_config.json", r=shape.rank, lora_alpha=2 * shape.rank)
    _write_json(folder / "adapter_config.json", adapter)
    model = _config("llava-lora-emola-init/config.json", **shape.decoder_config(layers))
    _write_json(folder / "config.json", model)
    prefix, lora = "base_model.model.model.", {}
    for layer in range(layers):
        for name, (outputs, inputs) in shape.linears().items():
            place = f"{prefix}layers.{layer}.{name}"
            lora[f"{place}.lora_A.weight"] = 0.01 * torch.randn(shape.rank, inputs, generator=random)
            lora[f"{place}.lora_B.weight"] = 0.005 * torch.randn(outputs, shape.rank, generator=random)
    torch.save({name: tensor.bfloat16() for name, tensor in lora.items()}, folder / "adapter_model.bin")
    width, pixels = shape.text["hidden_size"], shape.clip["hidden_size"]
    landmark = {prefix + k: v for k, v in _projector("landmark_feature_projector", width, LANDMARKS, random)}
    visual = {prefix + k: v for k, v in _projector("mm_projector", width, pixels, random)}
    torch.save({k: v.bfloat16() for k, v in {**visual, **landmark}.items()}, folder / "non_lora_trainables.bin")
    torch.save({k: v.bfloat16() for k, v in landmark.items()}, folder / "landmark_feature_projector.bin")


def _projector(name: str, width: int, inputs: int, random: torch.Generator) -> Weights:
    for index, size in ((0, inputs), (2, width)):
        yield f"{name}.{index}.weight", _matrix(width, size, random)
        yield f"{name}.{index}.bias", 0.02 * torch.randn(width, generator=random)


def _write_data(folder: Path, layers: int, shape: Shape, random: torch.Generator) -> None:
    """48 records to calibrate GPTQ: the golden training records, and each with its picture flipped in three ways."""
    shutil.copytree(GOLDEN / "data", folder, dirs_exist_ok=True)
    records = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    flipped = [_flip(folder, record, axes) for axes in ((0,), (1,), (0, 1)) for record in records]
    _write_json(folder / RECORDS, records + flipped)


def _flip(folder: Path, record: dict[str, Any], axes: tuple[int, ...]) -> dict[str, Any]:
    """Write the picture of a record, flipped along axes; returns its record, with the landmarks of the original."""
    found = Path(record["image"])
    image = found.with_stem(f"{found.stem}-flip{'-'.join(map(str, axes))}").as_posix()
    Image.fromarray(np.flip(np.asarray(Image.open(folder / found)), axes)).save(folder / image)
    return {**record, "id": Path(image).stem, "image": image}


def _matrix(outputs: int, inputs: int, random: torch.Generator) -> torch.Tensor:
    """(outputs, inputs) with outliers, in float16."""
    columns = 0.02 * torch.exp(0.3 * torch.randn(inputs, generator=random))
    columns[torch.rand(inputs, generator=random) < 1 / 512] *= 6
    rows = torch.exp(0.3 * torch.randn(outputs, 1, generator=random))
    return torch.randn(outputs, inputs, generator=random).mul_(columns).mul_(rows).half()


def _gain(width: int, random: torch.Generator) -> torch.Tensor:
    """(width,) weights of a norm around 1."""
    return torch.exp(0.2 * torch.randn(width, generator=random))


def _pad_tokenizer(path: Path) -> None:
    """The golden tokenizer with pieces of private characters up to the size of the published one."""
    model = pieces.ModelProto()
    model.ParseFromString((GOLDEN / "llava-base" / "tokenizer.model").read_bytes())
    for number in range(VOCABULARY - len(model.pieces)):
        text = chr(0xE000 + number // 256) + chr(0xE800 + number % 256)
        model.pieces.append(pieces.ModelProto.SentencePiece(piece=text, score=-1e6 - number))
    path.write_bytes(model.SerializeToString())


def _config(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((GOLDEN / name).read_text(encoding="utf-8")), **changes}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
