"""The ONNX decoder and its loop, against torch and Hugging Face's generate."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from conftest import GOLDEN

from export.graphs.decoder import Llama, write_decoder
from export.graphs.half import compute_in_half
from export.graphs.write import llama
from export.model import geometry
from export.quantise.linear import QuantizedLinear, round_to_nearest
from sdk.errors import BackendError, IntegrityError
from sdk.runtime.backends.interface import Sampling
from sdk.runtime.backends.ort import OrtDecoder
from sdk.runtime.generate import Generation
from trainer.checkpoint import Checkpoint

CHECKPOINT = Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    np.save(folder / "embeddings.npy", CHECKPOINT.merged["language_model.model.embed_tokens.weight"].numpy())
    return folder


def open_decoder(folder, name, **options) -> OrtDecoder:
    path = folder / f"{name}.onnx"
    if not path.exists():
        write_decoder(options.pop("model", llama(CHECKPOINT)), path, **options)
    return OrtDecoder(path, folder / "embeddings.npy", geometry(CHECKPOINT.config))


@pytest.fixture(scope="module")
def decoder(folder):
    return open_decoder(folder, "float32")


def rows(count, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((count, 64))).astype(np.float32)


def test_logits_equal_torch(decoder, emola):
    """All positions of a 60-row sequence within 1e-4, whether it comes in one piece or in several."""
    sequence = rows(60)
    with torch.inference_mode():
        expected = emola("trained").language_model(inputs_embeds=torch.from_numpy(sequence)[None]).logits[0].numpy()
    for cuts in ([60], [40, 20], [40, 1, 1, 18], [1] * 60):
        cache, found, at = decoder.new_cache(64), [], 0
        for count in cuts:
            found.append(decoder.extend(cache, sequence[at : at + count], last=count).copy())
            at += count
        assert cache.length == 60
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def test_the_loop_equals_generate(decoder, emola):
    """Hugging Face's greedy search on the same embeddings, 60 tokens, ended by an end mark or by the budget."""
    model, ended = emola("trained").language_model, set()
    for seed in range(8):
        prompt_ids = np.random.default_rng(seed).integers(3, 700, 30)
        embeds = torch.from_numpy(decoder.embed(prompt_ids))[None]
        mask = torch.ones(1, 30, dtype=torch.long)
        with torch.inference_mode():
            expected = model.generate(
                inputs_embeds=embeds, attention_mask=mask, do_sample=False, max_new_tokens=60, eos_token_id=[2, 17]
            )[0].tolist()
        loop = Generation(decoder, decoder.new_cache(128), prompt_ids.tolist(), stop_ids=(2, 17), max_new_tokens=60)
        assert list(loop) == [token for token in expected if token not in (2, 17)]
        assert loop.truncated == (expected[-1] not in (2, 17))
        ended.add(loop.truncated)
    assert ended == {True, False}, "both ends should occur in this test"


def test_rewinding_forgets_what_followed(decoder):
    cache, prefix, question = decoder.new_cache(64), rows(20), rows(5, 1)
    decoder.extend(cache, prefix)
    first = decoder.extend(cache, question).copy()
    decoder.extend(cache, rows(30, 2))
    cache.length = 20
    np.testing.assert_array_equal(decoder.extend(cache, question), first)


def quantised(model: Llama) -> dict:
    """Every weight of a model, the linear layers quantised as the int4 export does it."""
    layers = {name: model.weights[name] for name in model.weights}
    bits = {name: 8 if "lm_head" in name else 4 for name in layers if "proj" in name or "lm_head" in name}
    return {name: round_to_nearest(w, bits[name]) if name in bits else w for name, w in layers.items()}


def test_int4_equals_float_with_the_same_weights(folder):
    """The int4 graph against the float graph on dequantised weights: within 3 %, what 8-bit activations cost.

    The float16 graph has no 8-bit activations: within 1 %.
    """
    model = llama(CHECKPOINT)
    same = {n: w.dequantize() if isinstance(w, QuantizedLinear) else w for n, w in quantised(model).items()}
    exact = open_decoder(folder, "dequantised", model=dataclasses.replace(model, weights=same))
    quick = open_decoder(folder, "int4", bits=4)
    onnx.save(compute_in_half(onnx.load(folder / "int4.onnx", load_external_data=False)), folder / "half.onnx")
    half = open_decoder(folder, "half")
    expected = exact.extend(exact.new_cache(64), rows(40), last=40).copy()
    for decoder, limit in ((quick, 0.03), (half, 0.01)):
        found = decoder.extend(decoder.new_cache(64), rows(40), last=40)
        assert np.linalg.norm(found - expected) < limit * np.linalg.norm(expected)


def test_layers_that_come_quantised_are_taken_as_they_are(folder):
    """Writing QuantizedLinear layers gives the same file as quantising on the way."""
    model = llama(CHECKPOINT)
    open_decoder(folder, "int4", bits=4)
    open_decoder(folder, "ready", model=dataclasses.replace(model, weights=quantised(model)))
    assert (folder / "ready.onnx.data").read_bytes() == (folder / "int4.onnx.data").read_bytes()


def test_sampling_is_repeatable_and_top_p_narrows_to_greedy(decoder):
    def draw(**options):
        cache = decoder.new_cache(64)
        return list(Generation(decoder, cache, [5, 6, 7], stop_ids=(), max_new_tokens=20, sampling=Sampling(**options)))

    assert draw(temperature=1.0, seed=1) == draw(temperature=1.0, seed=1) != draw(temperature=1.0, seed=2)
    assert draw(temperature=1.0, top_p=1e-6, seed=1) == draw()


def test_limits(decoder, folder, tmp_path):
    cache = decoder.new_cache(8)
    with pytest.raises(BackendError, match="needs 9 positions, its cache holds 8"):
        decoder.extend(cache, rows(9))
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    with pytest.raises(BackendError, match="cannot open"):
        OrtDecoder(tmp_path / "broken.onnx", folder / "embeddings.npy", geometry(CHECKPOINT.config))
    np.save(tmp_path / "short.npy", np.zeros((3, 64), np.float32))
    with pytest.raises(IntegrityError, match="expected a table"):
        OrtDecoder(folder / "float32.onnx", tmp_path / "short.npy", geometry(CHECKPOINT.config))
