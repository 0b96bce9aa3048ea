"""Every released layout loads to the same model; a missing, surplus or foreign weight is an error that names it."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from peft import PeftModel
from safetensors.torch import save_file

from sdk.errors import CheckpointError
from trainer.checkpoint import load_emola
from trainer.model.config import Conventions, read_conventions
from trainer.model.weights import WeightFiles, weight_files

BASE, CLIP, ADAPTER = (GOLDEN / name for name in ("llava-base", "clip", "llava-lora-emola-trained"))


@pytest.fixture
def copies(tmp_path):
    """Copies of base, tower and adapter that a test may damage."""
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in (BASE, CLIP, ADAPTER)]


def assert_same(model, reference):
    expected = reference.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name, atol=0, rtol=0)


def read_base() -> dict[str, torch.Tensor]:
    return {k: v for path in weight_files(BASE) for k, v in torch.load(path, weights_only=True).items()}


def read_tower() -> dict[str, torch.Tensor]:
    return torch.load(CLIP / "pytorch_model.bin", weights_only=True)


def write_base(folder, tensors, **config):
    content = json.loads((BASE / "config.json").read_text())
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    shutil.copy(BASE / "tokenizer.model", folder)
    return folder


def test_safetensors_and_vision_tower_inside(tmp_path, emola):
    inside = {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in read_tower().items()}
    vision = json.loads((CLIP / "config.json").read_text())
    base = write_base(tmp_path / "base", {**read_base(), **inside}, vision_config=vision)
    assert_same(load_emola(ADAPTER, base), emola("trained"))


@pytest.mark.parametrize("prefix", ["", "model."], ids=["before 4.52", "since 4.52"])
def test_llava_hf_layout(tmp_path, emola, prefix):
    """Names, configuration and a vocabulary padded by 64 rows, as in the converted releases."""
    tensors = {}
    for name, tensor in read_base().items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensor = torch.cat([tensor, torch.zeros(64, tensor.shape[1])])
        if name.startswith("model.mm_projector."):
            layer = {"0": "linear_1", "2": "linear_2"}[name.split(".")[2]]
            name = f"{prefix}multi_modal_projector.{layer}.{name.split('.')[3]}"
        elif name.startswith("model."):
            name = f"model.language_model.{name[6:]}" if prefix else f"language_model.{name}"
        else:
            name = name if prefix else f"language_model.{name}"
        tensors[name] = tensor
    tensors |= {f"{prefix}vision_tower.{name}": tensor for name, tensor in read_tower().items()}
    text = json.loads((BASE / "config.json").read_text())
    base = write_base(tmp_path / "base", tensors)
    config = {
        "text_config": {**text, "vocab_size": 764, "model_type": "llama"},
        "vision_config": json.loads((CLIP / "config.json").read_text()),
        "vision_feature_layer": -2,
    }
    (base / "config.json").write_text(json.dumps(config))
    assert_same(load_emola(ADAPTER, base), emola("trained"))


def test_a_whole_clip_model_may_be_the_tower(copies, emola):
    base, clip, adapter = copies
    extra = {"text_model.embeddings.weight": torch.zeros(3), "logit_scale": torch.zeros(())}
    torch.save({**read_tower(), **extra}, clip / "pytorch_model.bin")
    config = {"vision_config": json.loads((CLIP / "config.json").read_text()), "model_type": "clip"}
    (clip / "config.json").write_text(json.dumps(config))
    assert_same(load_emola(adapter, base, clip), emola("trained"))


def test_merging_equals_peft(emola):
    """The independent oracle: peft's own loader and merge on the bare Llama; within 1e-6."""
    bare = load_emola(ADAPTER, BASE, CLIP)
    frozen = {name: tensor for name, tensor in read_base().items() if "mm_projector" not in name}
    bare.language_model.load_state_dict(frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 calls transformers 5.23 by an old name
        merged = PeftModel.from_pretrained(bare.language_model, ADAPTER).merge_and_unload()
    expected = emola("trained").language_model.state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


def test_adapters_of_later_peft_versions(copies, emola):
    """safetensors, and names with the adapter's name in them."""
    base, clip, adapter = copies
    tensors = torch.load(adapter / "adapter_model.bin", weights_only=True)
    renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.bin").unlink()
    assert_same(load_emola(adapter, base, clip), emola("trained"))


def test_dtype(emola):
    model = load_emola(ADAPTER, BASE, CLIP, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(path, name):
    tensors = torch.load(path, weights_only=True)
    assert tensors.pop(name, None) is not None
    torch.save(tensors, path)


def add(path, name, *shape):
    torch.save({**torch.load(path, weights_only=True), name: torch.zeros(shape)}, path)


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda b, c, a: drop(c / "pytorch_model.bin", "vision_model.pre_layrnorm.bias"),
            "pre_layrnorm.bias is missing",
        ),
        (
            lambda b, c, a: add(c / "pytorch_model.bin", "vision_model.extra", 1),
            "vision_model.extra in .*no such weight",
        ),
        (lambda b, c, a: drop(a / "adapter_model.bin", LORA), "only one of its LoRA factors"),
        (lambda b, c, a: add(a / "adapter_model.bin", "base_model.model.x", 1), "x is not a LoRA weight"),
        (lambda b, c, a: (a / "landmark_feature_projector.bin").unlink(), "landmark_feature_projector.bin missing"),
        (lambda b, c, a: (a / "adapter_model.bin").unlink(), "adapter_model.bin is missing"),
        (lambda b, c, a: (b / "pytorch_model-00001-of-00002.bin").unlink(), "pytorch_model-00001-of-00002.bin missing"),
        (lambda b, c, a: (b / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK"), "damaged|more than tensors"),
        (lambda b, c, a: (b / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda b, c, a: edit_json(b / "config.json", hidden_size=128), "hidden_size is 64, the base has 128"),
        (lambda b, c, a: edit_json(b / "config.json", rope_scaling={"type": "linear"}), "scaled rotary"),
        (lambda b, c, a: edit_json(a / "adapter_config.json", use_dora=True), "expected plain LoRA"),
        (lambda b, c, a: edit_json(a / "adapter_config.json", target_modules=["q_proj"]), "is not a target"),
        (lambda b, c, a: edit_json(a / "adapter_config.json", target_modules=".*_proj"), "target_modules is a pattern"),
        (lambda b, c, a: edit_json(c / "config.json", hidden_size=96), "expected shape .* found"),
    ],
)
def test_damage_is_named(copies, damage, message):
    damage(*copies)
    with pytest.raises(CheckpointError, match=message):
        load_emola(copies[2], copies[0], copies[1])


def test_an_adapter_for_another_base_is_refused_by_its_weights(copies):
    """The wrong base is found without the adapter's config.json, too."""
    base, clip, adapter = copies
    (adapter / "config.json").unlink()
    tensors = torch.load(adapter / "adapter_model.bin", weights_only=True)
    tensors[LORA] = torch.zeros(8, 128)
    torch.save(tensors, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="made for another base"):
        load_emola(adapter, base, clip)


def test_no_vision_tower_and_no_adapter(copies):
    base, clip, adapter = copies
    with pytest.raises(CheckpointError, match="vision_tower.* pass its folder"):
        load_emola(adapter, base)
    with pytest.raises(CheckpointError, match="landmark_feature_projector.*pass an adapter"):
        load_emola(None, base, clip)
    with pytest.raises(CheckpointError, match="adapter 'nowhere' is not a folder"):
        load_emola("nowhere", base, clip)


def test_code_in_a_weight_file_is_not_run(copies, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath, ("touched",))

    torch.save({"model.norm.weight": Evil()}, copies[0] / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_emola(copies[2], copies[0], copies[1])


def test_weights_are_read_when_asked_for():
    weights = WeightFiles(weight_files(BASE))
    name = "language_model.model.norm.weight"
    assert weights.shape(name) == tuple(weights[name].shape) == (64,)
    assert re.fullmatch(r"model\.norm\.weight in .*00002-of-00002\.bin", weights.describe(name))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_a_weight_that_is_let_go_is_not_in_memory(tmp_path):
    """A weight file is mapped only while one of its tensors is in use: memory does not grow with the tensors read."""
    path = tmp_path / "model.safetensors"
    save_file({name: torch.ones(1000, 1000) for name in ("lm_head.weight", "model.norm.weight")}, path)
    files = WeightFiles([path])
    weights = list(files.values())
    assert str(path) in Path("/proc/self/maps").read_text()
    assert [float(weight.sum()) for weight in weights] == [1e6, 1e6]
    del weights
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_conventions(tmp_path):
    assert read_conventions(tmp_path) == Conventions()  # the authors' evaluation
    (tmp_path / "emola.json").write_text(json.dumps({"template": "vicuna_v1", "image_aspect": "pad"}))
    assert read_conventions(tmp_path) == Conventions(template="vicuna_v1", image_aspect="pad")
    (tmp_path / "emola.json").write_text(json.dumps({"landmark_mode": "mediapipe"}))
    with pytest.raises(CheckpointError, match="landmark_mode must be one of"):
        read_conventions(tmp_path)
