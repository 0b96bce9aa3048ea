"""The reference in bounded memory: the arithmetic that is chosen, and that layer by layer gives what memory gives."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from export.reference import compute_reference
from sdk.errors import CheckpointError
from sdk.progress import Progress
from trainer.checkpoint import Checkpoint
from trainer.evaluation.answerers import TorchAnswerer
from trainer.model.processor import SMALL_WEIGHTS, Arithmetic, choose_arithmetic

SEVEN_BILLION = 7_000_000_000


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip")


def test_a_small_model_stays_in_float32_on_the_cpu(checkpoint):
    """Figures of parity do not depend on the machine."""
    assert checkpoint.arithmetic() == Arithmetic(torch.float32, "cpu", layerwise=False)


@pytest.mark.parametrize(("multiplies", "name"), [(True, "bfloat16 on cpu"), (False, "float32 on cpu, layer by layer")])
def test_seven_billion_weights_on_a_cpu_are_never_28_gb(monkeypatch, multiplies, name):
    monkeypatch.setattr("trainer.model.processor.multiplies_bfloat16", lambda: multiplies)
    monkeypatch.setattr("trainer.model.processor.available_memory", lambda: 17e9)
    assert str(choose_arithmetic(SEVEN_BILLION, torch.float16, "cpu")) == name
    assert str(choose_arithmetic(SMALL_WEIGHTS, torch.float16, "cpu")) == "float32 on cpu"
    monkeypatch.setattr("trainer.model.processor.available_memory", lambda: 12e9)
    assert choose_arithmetic(SEVEN_BILLION, torch.float16, "cpu").layerwise, "14 GB do not fit into 12"


@pytest.mark.parametrize(("stored", "native", "dtype"), [("float16", True, "float16"), ("bfloat16", False, "float16")])
def test_a_gpu_takes_what_fits(monkeypatch, stored, native, dtype):
    """The 16-bit type of the files; a model that does not fit goes to the CPU unless the GPU was asked for."""
    gpu = {"is_available": lambda: True, "is_bf16_supported": lambda including_emulation: native}
    gpu |= {"mem_get_info": lambda: (24 << 30, 24 << 30), "get_device_name": lambda: "RTX"}
    for name, function in gpu.items():
        monkeypatch.setattr(f"torch.cuda.{name}", function)
    assert str(choose_arithmetic(SEVEN_BILLION, getattr(torch, stored))) == f"{dtype} on RTX"
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (8 << 30, 8 << 30))
    assert choose_arithmetic(SEVEN_BILLION, torch.float16).device == "cpu"
    with pytest.raises(CheckpointError, match=r"needs about 20\.4 GB on the GPU, 8\.6 GB are free"):
        choose_arithmetic(SEVEN_BILLION, torch.float16, "cuda")


def test_a_float32_bundle_is_compared_with_float32(monkeypatch):
    """bfloat16 is 1.7 % away after two layers: no graph could be judged by 1e-4 against it."""
    monkeypatch.setattr("trainer.model.processor.multiplies_bfloat16", lambda: True)
    exact = choose_arithmetic(SEVEN_BILLION, torch.float16, "cpu", exact=True)
    assert exact == Arithmetic(torch.float32, "cpu", layerwise=True)


def test_a_model_that_fills_the_memory_answers_two_records_at_once(checkpoint):
    sizes = [TorchAnswerer(checkpoint, Arithmetic(t), 8, 6).batch_size for t in (torch.float32, torch.bfloat16)]
    assert sizes == [8, 2]


def test_progress_tells_the_time_left():
    """One line in ten seconds, with the speed since the first call: a run that continues starts in the middle."""
    lines, seconds = [], iter((0, 0, 5, 30, 31, 60))
    progress = Progress(lines.append, lambda: next(seconds))
    for done in (4, 5, 6, 7, 10):
        progress.at(done, 10, "layers")
    assert lines == ["  layers: 60 %, about 60 s left"]


def test_layer_by_layer_is_the_same_model_in_less_memory(checkpoint):
    """Equal logits to the bit; the layers share the memory of one; each is read once per pass."""
    passes = []
    whole = checkpoint.load_for(Arithmetic(), encoders=False).language_model
    streamed = checkpoint.load_for(Arithmetic(layerwise=True), encoders=False, ran=passes.append).language_model
    rows = torch.randn(2, 9, checkpoint.config.text.hidden_size)
    with torch.inference_mode():
        assert torch.equal(whole(inputs_embeds=rows).logits, streamed(inputs_embeds=rows).logits)
    layers = checkpoint.config.text.num_hidden_layers
    assert passes == list(range(layers))
    held, all_of_it = (_bytes(model.model.layers) for model in (streamed, whole))
    assert layers * held == all_of_it


def _bytes(module) -> int:
    return sum({p.data_ptr(): p.nbytes for p in module.parameters()}.values())


def test_one_padded_batch_gives_the_tokens_of_single_questions(checkpoint):
    """Layer by layer all questions are answered at once, by Hugging Face's `generate` as well."""
    single, batch = (compute_reference(checkpoint, None, Arithmetic(layerwise=way)) for way in (False, True))
    np.testing.assert_array_equal(single.rows, batch.rows)
    np.testing.assert_array_equal(single.token_ids, batch.token_ids)
    np.testing.assert_allclose(single.logits, batch.logits, atol=1e-5)


def test_a_reference_in_bfloat16_keeps_exact_rows(checkpoint):
    """The encoders are computed in float32 whatever the decoder's type is."""
    exact, rounded = (compute_reference(checkpoint, None, Arithmetic(t)) for t in (torch.float32, torch.bfloat16))
    np.testing.assert_array_equal(exact.rows, rounded.rows)
    error = np.linalg.norm(exact.logits - rounded.logits) / np.linalg.norm(exact.logits)
    assert 1e-4 < error < 0.05, f"bfloat16 is {100 * error:.2f} % away"
