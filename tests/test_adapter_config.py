"""An adapter is computed as peft computes it, or refused: each initialisation, variant and key of peft's LoraConfig."""

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path

import peft
import pytest
import torch
from conftest import SHARED
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sdk.errors import CheckpointError
from trainer.model.adapter_config import HONOURED, REFUSED, WITHOUT_EFFECT, read_adapter_config
from trainer.model.lora import LORA_TARGETS, LoraUpdates, MergedWeights

CASE = SHARED / "cases/data/rank_of_another_adapter.json"
IDS = torch.arange(3, 15)[None]
PREFIX = "language_model."
KEYS = {field.name for field in dataclasses.fields(LoraConfig)}
LATER = pytest.mark.skipif("lora_ga_config" not in KEYS, reason="this peft does not have it yet")


@pytest.fixture(autouse=True)
def peft_as_it_is(monkeypatch):
    """peft warns of much that the tests mean; what a test replaces in it is put back."""
    monkeypatch.setattr(peft.tuners.lora.layer, "loftq_init", peft.tuners.lora.layer.loftq_init)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=40)
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(config: LoraConfig, folder: Path) -> None:
    finish(get_peft_model(tiny_llama(), config), folder)


def finish(model: PeftModel, folder: Path, start: Path | None = None) -> torch.Tensor:
    """Write an adapter as if it had been trained from its start, and return peft's logits."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval()
    expected = logits(model)
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start) if start else None)
    return expected


def ours(folder: Path) -> torch.Tensor:
    """The logits of the released base with the updates that this project reads from the adapter."""
    base = tiny_llama()
    frozen = {PREFIX + name: tensor for name, tensor in base.state_dict().items()}
    updates = LoraUpdates(folder)
    updates.check({name: tuple(tensor.shape) for name, tensor in frozen.items()})
    merged = MergedWeights(frozen, updates)
    base.load_state_dict({name.removeprefix(PREFIX): merged[name] for name in merged})
    return logits(base)


def plain(**changes) -> LoraConfig:
    return LoraConfig(
        **{**dict(r=4, lora_alpha=6, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM"), **changes}
    )


RIGHT = {
    "plain": {},
    "random": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "rslora": {"use_rslora": True},
    "two targets": {"target_modules": ["q_proj", "v_proj"]},
    "ranks": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}},
    "scales": {"alpha_pattern": {"q_proj": 3, "1.mlp.up_proj": 12.5}, "use_rslora": True},
    "two keys for one module": {"alpha_pattern": {"q_proj": 3, "layers.0.self_attn.q_proj": 9}},
}


@pytest.mark.parametrize(
    "changes", [pytest.param(changes, id=name, marks=[LATER] * (name == "mica")) for name, changes in RIGHT.items()]
)
def test_plain_lora_gives_the_logits_of_peft(tmp_path, changes):
    trained(plain(**changes), tmp_path)
    expected = logits(PeftModel.from_pretrained(tiny_llama(), tmp_path))  # the file sorts the keys of a pattern
    assert (expected - logits(tiny_llama())).abs().max() > 0.01, "the adapter must change the logits"
    torch.testing.assert_close(ours(tmp_path), expected, atol=1e-5, rtol=0)


def corda(model, config):
    sys.modules.setdefault("attr", dataclasses)  # peft takes `dataclass` from attrs, which it does not require
    from peft.tuners.lora.corda import preprocess_corda

    preprocess_corda(model, config, run_model=lambda: model(input_ids=IDS))


def lora_ga(model, config):
    from peft.tuners.lora.loraga import preprocess_loraga

    preprocess_loraga(model, config, lambda: model(input_ids=IDS, labels=IDS).loss.backward())


def loftq(model, config):
    """The rounding of LoftQ needs bitsandbytes, so it is replaced here by three levels."""

    def rounded(weight, num_bits, reduced_rank, num_iter):
        coarse = (weight / weight.std()).round().clamp(-1, 1) * weight.std()
        u, s, v = torch.linalg.svd(weight - coarse, full_matrices=False)
        return coarse, s[:reduced_rank, None] * v[:reduced_rank], u[:, :reduced_rank]

    peft.tuners.lora.layer.loftq_init = rounded


MUTATED = {
    "pissa": (lambda: plain(init_lora_weights="pissa"), None),
    "pissa_niter_4": (lambda: plain(init_lora_weights="pissa_niter_4"), None),
    "olora": (lambda: plain(init_lora_weights="olora"), None),
    "corda": (lambda: plain(init_lora_weights="corda", corda_config=peft.tuners.lora.config.CordaConfig()), corda),
    "loftq": (lambda: plain(init_lora_weights="loftq", loftq_config=peft.LoftQConfig(loftq_bits=4)), loftq),
    "lora_ga": (
        lambda: plain(init_lora_weights="lora_ga", lora_ga_config=peft.tuners.lora.config.LoraGAConfig()),
        lora_ga,
    ),
}


def started(make, prepare) -> PeftModel:
    """A new adapter of such a kind, with the preparation that it needs."""
    base, config = tiny_llama(), make()
    if prepare:
        prepare(base, config)
    return get_peft_model(base, config)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[LATER] * (name == "lora_ga")) for name in MUTATED])
def test_an_adapter_whose_start_changed_the_base_is_refused(tmp_path, name):
    """PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract their start from the base: W + BA on the released is wrong."""
    model = started(*MUTATED[name])
    expected = finish(model, tmp_path)
    with pytest.raises(CheckpointError, match=f"init_lora_weights '{name}' changed the weights of the base"):
        LoraUpdates(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": True}))
    assert (ours(tmp_path) - expected).abs().max() > 0.01, "without the refusal the logits would be wrong"


@pytest.mark.parametrize("name", ["pissa", "olora", "corda"])
def test_a_converted_adapter_gives_the_logits_of_peft(tmp_path, name):
    """peft's conversion writes plain LoRA of twice the rank, which the message of the refusal recommends."""
    model = started(*MUTATED[name])
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = name
    expected = finish(model, tmp_path / "end", tmp_path / "start")
    torch.testing.assert_close(ours(tmp_path / "end"), expected, atol=1e-4, rtol=0)


def test_eva_gives_the_logits_of_peft(tmp_path):
    """EVA distributes the ranks over the modules and writes them into rank_pattern and alpha_pattern."""
    config = plain(init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0, tau=0.5))
    model = get_peft_model(tiny_llama(), config)
    torch.manual_seed(2)
    batches = [{"input_ids": torch.randint(3, 40, (2, 12))} for _ in range(12)]
    peft.initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    expected = finish(model, tmp_path)
    assert read_adapter_config(tmp_path).rank_pattern, "this test is about ranks that differ"
    torch.testing.assert_close(ours(tmp_path), expected, atol=1e-5, rtol=0)


VARIANTS = {
    "use_dora": {"use_dora": True},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5, 6]},
    "bias": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trainable_token_indices": {"trainable_token_indices": [4, 5]},
    "layers_to_transform": {"layers_to_transform": [0]},
    "exclude_modules": {"exclude_modules": ["v_proj"]},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
    "target_modules": {"target_modules": r".*\.q_proj"},
    "rank_pattern": {"rank_pattern": {r"layers\.[01]\..*q_proj": 2}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_lora_is_refused_by_name(tmp_path, name):
    """Adapters as peft writes them; each has logits that W + BA of its linear layers does not give."""
    trained(plain(**VARIANTS[name]), tmp_path)
    with pytest.raises(CheckpointError, match=f"adapter_config.json: .*{name}"):
        ours(tmp_path)


def test_every_key_of_peft_has_one_place():
    """A new key of peft fails here: decide whether it is honoured, has no effect or is refused."""
    places = (HONOURED, WITHOUT_EFFECT, REFUSED)
    assert sum(map(len, places)) == len(HONOURED | WITHOUT_EFFECT | REFUSED)
    unknown = KEYS - HONOURED - WITHOUT_EFFECT - REFUSED
    assert not unknown, f"peft {peft.__version__} has keys that trainer.model.adapter_config does not know: {unknown}"


@pytest.mark.parametrize("key", sorted(REFUSED | {"a_key_of_a_later_peft"}))
@pytest.mark.parametrize("value", [True, 3, "auto", [1], {"a": {"b": 1}}])
def test_a_key_that_is_set_is_refused(tmp_path, key, value):
    trained(plain(), tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(CheckpointError, match=f"'{key}' = .*(not computed|not known)"):
        LoraUpdates(tmp_path)


WRONG = {
    "r": [None, 0, -8, 8.0, True, "8", 10**400, [8]],
    "lora_alpha": [None, "16", float("nan"), float("inf"), 10**400, True, {}],
    "lora_dropout": [1.5, -1, "0", float("nan")],
    "rank_pattern": [{"q_proj": 0}, {"q_proj": "8"}, ["q_proj"], {"(a+)+": 8}, {"q_proj": None}],
    "alpha_pattern": [{"q_proj": float("inf")}, "q_proj", {"": 3}],
    "target_modules": [None, [], [1], {"q_proj": 1}, ["q_proj", None], [["q_proj"]]],
    "use_rslora": ["yes", 3, [True]],
    "init_lora_weights": ["lora_xs", 1, 0, [], {}, "PiSSA", "True"],
    "bias": ["all", False, []],
    "peft_type": [None, "LOHA", ["LORA"], "lora"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_error(tmp_path, key, value):
    trained(plain(), tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(CheckpointError):
        ours(tmp_path)


@pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules", "peft_type"])
def test_a_missing_key_is_one_error(tmp_path, key):
    """peft would take its default, which another version of peft changes."""
    trained(plain(), tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    del content[key]
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=key):
        ours(tmp_path)


def edit(folder, key, value):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def test_the_rank_of_another_adapter_is_refused(tmp_path):
    """The scale is alpha / r: a wrong r halves every update without a word."""
    trained(plain(r=8, lora_alpha=16), tmp_path)
    edit(tmp_path, "r", 16)
    with pytest.raises(CheckpointError, match=r"says rank 16 for .*, its factors are \(8, 48\)"):
        LoraUpdates(tmp_path)


@pytest.mark.skipif(not CASE.exists(), reason="the case files are not here")
def test_the_case_file_is_refused(tmp_path):
    trained(plain(r=8, lora_alpha=16), tmp_path)
    shutil.copy(CASE, tmp_path / "adapter_config.json")
    with pytest.raises(CheckpointError, match="says rank 16"):
        LoraUpdates(tmp_path)


@pytest.mark.parametrize("shape", [(8, 4, 1), (8,), (8, 5)])
def test_factors_of_another_shape_are_refused(tmp_path, shape):
    trained(plain(), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: torch.zeros(shape)}, path)
    with pytest.raises(CheckpointError, match="factors"):
        ours(tmp_path)
