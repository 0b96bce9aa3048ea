"""The decoder quantised layer by layer on fused sequences: faithful to the model, better than its rivals, resumable."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import GOLDEN
from onnx import numpy_helper

from export.graphs.decoder import write_decoder
from export.graphs.write import llama
from export.model import decoder_shapes
from export.quantise.activations import ActivationFile
from export.quantise.autogptq import GptqWeights, layout_files
from export.quantise.calibrate import CalibrationSet, fused_sequences, text_sequences
from export.quantise.gptq import GptqOptions, quantise, relative_error
from export.quantise.layerwise import LayerWalk, check_shapes, quantise_decoder
from export.quantise.linear import QuantizedLinear, round_to_nearest
from sdk.errors import ExportError
from sdk.runtime.backends.ort import OrtDecoder
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import read_records

RECORDS = read_records(GOLDEN / "data/FABAInstruct/train/train_anno.json")
CALIBRATION, UNSEEN = RECORDS[:8], RECORDS[8:]
OPTIONS = GptqOptions(4, 32)


@pytest.fixture(scope="module")
def golden_checkpoint():
    return Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip")


@pytest.fixture(scope="module", params=["golden", "trained"])
def checkpoint(request, golden_checkpoint, small_checkpoint):
    return golden_checkpoint if request.param == "golden" else Checkpoint(None, small_checkpoint)


def float_walk(checkpoint, sequences, folder):
    """Hessians and weights of every linear layer, nothing quantised, and the rows after the last layer."""
    rows, found = ActivationFile.save(folder, sequences), {}
    walk = LayerWalk(checkpoint, folder)
    for index in range(checkpoint.config.text.num_hidden_layers):

        def keep(names, weights, hessian, index=index):
            together = hessian.finish()
            found.update({(index, name): (w, together) for name, w in zip(names, weights, strict=True)})
            return weights

        rows = walk.run(index, rows, keep)
    return found, rows


def test_the_walk_is_the_model(emola, golden_checkpoint, tmp_path):
    """With weights as they are, the rows after the last layer equal Hugging Face's within 1e-5."""
    sequences = list(fused_sequences(golden_checkpoint, RECORDS[:3]))
    _, rows = float_walk(golden_checkpoint, sequences, tmp_path)
    model = emola("trained").language_model.model
    for found, sequence in zip(rows, sequences, strict=True):
        with torch.inference_mode():
            states = model(inputs_embeds=sequence[None], output_hidden_states=True)
            torch.testing.assert_close(model.norm(found), states.last_hidden_state[0], atol=1e-5, rtol=1e-5)


def test_calibration_reads_what_the_model_reads(emola, golden_checkpoint):
    """Fused rows equal those of `EmoLA.fuse` in training, within 1e-6."""
    from trainer.corpus.tensors import Encoding, RecordDataset, collate
    from trainer.tokenization import load_tokenizer

    c = golden_checkpoint
    encoding = Encoding(c.config, c.conventions, c.statistics, load_tokenizer(c.base))
    batch = collate([RecordDataset(RECORDS[:1], encoding)[0]])
    with torch.inference_mode():
        model = emola("trained")
        expected = model.fuse(batch["input_ids"], model.encode(batch["pixel_values"], batch["landmarks"])).embeds[0]
    (found,) = fused_sequences(c, RECORDS[:1])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_on_unseen_faces_gptq_beats_rounding_and_fused_beats_text(checkpoint, tmp_path):
    """For each of the seven linear layers, at every depth: unseen fused sequences, relative error of the outputs."""

    def hessians(name, sequences):
        (tmp_path / name).mkdir()
        return float_walk(checkpoint, sequences, tmp_path / name)[0]

    fused = hessians("fused", fused_sequences(checkpoint, CALIBRATION))
    text = hessians("text", text_sequences(checkpoint, CALIBRATION))
    for layer, (weight, unseen) in hessians("unseen", fused_sequences(checkpoint, UNSEEN)).items():
        nearest = relative_error(weight, round_to_nearest(weight.numpy()), unseen)
        ours, on_text = (
            relative_error(weight, quantise(weight, found[layer][1], OPTIONS), unseen) for found in (fused, text)
        )
        assert ours < 0.85 * nearest, f"{layer}: {ours:.4f}, round to nearest {nearest:.4f}"
        assert ours < on_text, f"{layer}: {ours:.4f}, calibrated on text {on_text:.4f}"


@pytest.fixture(scope="module")
def rows(golden_checkpoint, tmp_path_factory):
    return ActivationFile.save(tmp_path_factory.mktemp("rows"), fused_sequences(golden_checkpoint, CALIBRATION))


@pytest.fixture(scope="module")
def gptq(golden_checkpoint, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gptq")
    quantise_decoder(golden_checkpoint, rows, folder, OPTIONS)
    return folder


def digests(folder):
    """Of everything but the records of each layer, which hold its seconds."""
    kept = (path for path in sorted(folder.iterdir()) if not path.match("model-layer-*.json"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(golden_checkpoint, rows, gptq, tmp_path, monkeypatch, stop):
    """Stopped in any layer; finished layers are not computed again."""
    real, layers = LayerWalk.run, []

    def run(self, index, *arguments):
        layers.append(index)
        result = real(self, index, *arguments)
        if layers.count(stop) == 1 and index == stop:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(LayerWalk, "run", run)
    with pytest.raises(KeyboardInterrupt):
        quantise_decoder(golden_checkpoint, rows, tmp_path, OPTIONS)
    quantise_decoder(golden_checkpoint, rows, tmp_path, OPTIONS)
    assert layers == [*range(stop + 1), *range(stop, 3)]
    assert digests(tmp_path) == digests(gptq)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's figures of memory")
def test_memory_does_not_grow_with_depth():
    """12 more layers, read from 76 MB and written to 24 MB: the peak of the process rises by less than half."""
    script = Path(__file__).parents[1] / "benchmarks/quantiser.py"
    command = [sys.executable, script, "--hidden", "512", "--sequences", "1", "--rows", "64", "--layers", "6", "18"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    peaks = [1000 * json.loads(line)["peak_memory_gb"] for line in lines]
    assert peaks[1] - peaks[0] < 12, f"{peaks[0]:.0f} MB with 6 layers, {peaks[1]:.0f} MB with 18"


def test_nothing_is_requantised_on_the_way_to_onnx(golden_checkpoint, gptq, tmp_path):
    """The 4-bit values and scales in the ONNX file are those of the GPTQ folder, layer by layer, to the bit."""
    weights = GptqWeights(gptq)
    write_decoder(llama(golden_checkpoint, weights), tmp_path / "gptq.onnx", bits=4)
    graph = onnx.load(tmp_path / "gptq.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for layer in range(3):
        prefix, compared = f"model.layers.{layer}.", 0
        for output, names in (
            ("qkv", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("o", ["self_attn.o_proj"]),
            ("gate_up", ["mlp.gate_proj", "mlp.up_proj"]),
            ("down", ["mlp.down_proj"]),
        ):
            packed, scales = stored[f"{prefix}{output}.weight"], stored[f"{prefix}{output}.scales"]
            expected = QuantizedLinear.stack([weights[f"{prefix}{name}.weight"] for name in names])
            np.testing.assert_array_equal(np.stack([packed & 15, packed >> 4], -1).ravel(), expected.values.ravel())
            np.testing.assert_array_equal(scales, expected.scales)
            compared += expected.values.size
        assert compared == 4 * 64 * 64 + 3 * 64 * 160


def test_the_graph_computes_what_the_quantised_model_computes(golden_checkpoint, gptq, tmp_path):
    """Hugging Face's Llama with the dequantised weights against the ONNX decoder: within 3 %, its 8-bit activations."""
    from transformers import LlamaForCausalLM

    weights = GptqWeights(gptq)
    state = {name: torch.from_numpy(getattr(w, "dequantize", lambda w=w: w)()) for name, w in weights.items()}
    model = LlamaForCausalLM(golden_checkpoint.config.text).eval()
    model.load_state_dict(state)
    write_decoder(llama(golden_checkpoint, weights), tmp_path / "gptq.onnx", bits=4)
    np.save(tmp_path / "table.npy", weights["model.embed_tokens.weight"])
    decoder = OrtDecoder(tmp_path / "gptq.onnx", tmp_path / "table.npy", llama(golden_checkpoint).geometry)
    (sequence,) = fused_sequences(golden_checkpoint, UNSEEN[:1])
    with torch.inference_mode():
        expected = model(inputs_embeds=sequence[None]).logits[0].numpy()
    found = decoder.extend(decoder.new_cache(512), sequence.numpy(), last=len(sequence))
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_bad_input(golden_checkpoint, tmp_path):
    train = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    with pytest.raises(ExportError, match="holds 12 records, 128 were requested"):
        CalibrationSet(train).records()
    with pytest.raises(ExportError, match=r"group 128 does not divide the 64 inputs of q_proj; choose .* 32, 16"):
        check_shapes(golden_checkpoint, GptqOptions())
    (tmp_path / "FABAInstruct/train").mkdir(parents=True)
    (tmp_path / "FABAInstruct/train/images").symlink_to(train.parent / "images")
    with pytest.raises(ExportError, match=r"12 of the drawn records cannot calibrate, first .*landmarks.*"):
        CalibrationSet(train, 12, tmp_path).records()


def keep_activations(path: Path) -> None:
    """Let the products of a graph compute with float32 activations."""
    model = onnx.load(path, load_external_data=False)
    for level in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
        level.i = 1
    onnx.save(model, path)


def test_an_independent_client_reads_our_folder(golden_checkpoint, gptq, tmp_path):
    """ONNX Runtime GenAI's model builder turns it into a decoder of its own, whose last logits equal ours within 1e-4.

    The builder rounds the head to 4 bits in blocks of 32; ours is given that head. Both keep float32 activations
    (accuracy level 1): rounded to 8 bits, sums in another order differ by up to a hundredth on processors with VNNI.
    """
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    out = tmp_path / "theirs"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        str(gptq),
        "-o",
        str(out),
    ]
    command += ["-p", "int4", "-e", "cpu", "-c", str(tmp_path / "cache"), "--extra_options", "int4_accuracy_level=4"]
    command += ["exclude_embeds=true", "prune_lm_head=true"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    keep_activations(out / "model.onnx")
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (sequence,) = fused_sequences(golden_checkpoint, UNSEEN[:1])
    feeds = {"inputs_embeds": sequence[None].numpy(), "attention_mask": np.ones((1, len(sequence)), np.int64)}
    for given in session.get_inputs():
        if given.name.startswith("past"):
            feeds[given.name] = np.zeros((1, 4, 0, 16), np.float32)
    theirs = session.run(["logits"], feeds)[0][0, -1]
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(out / "model.onnx").graph.initializer}
    packed, scales = stored["lm_head.MatMul.weight_Q4"], stored["lm_head.MatMul.weight_scales"]
    head = QuantizedLinear(np.stack([packed & 15, packed >> 4], -1).reshape(700, 64), scales, 4, 32)
    weights = dict(GptqWeights(gptq)) | {"lm_head.weight": head}
    write_decoder(llama(golden_checkpoint, weights), tmp_path / "ours.onnx")
    keep_activations(tmp_path / "ours.onnx")
    np.save(tmp_path / "table.npy", weights["model.embed_tokens.weight"])
    decoder = OrtDecoder(tmp_path / "ours.onnx", tmp_path / "table.npy", llama(golden_checkpoint).geometry)
    ours = decoder.extend(decoder.new_cache(512), sequence.numpy())[0]
    assert np.linalg.norm(theirs - ours) < 1e-4 * np.linalg.norm(ours)


def test_a_folder_with_the_names_of_auto_gptq_is_read(golden_checkpoint, gptq, tmp_path):
    """It calls its weights gptq_model-4bit-128g.safetensors and the like; the layout is the same."""
    for number, path in enumerate(sorted(gptq.glob("*.safetensors"))):
        shutil.copyfile(path, tmp_path / f"gptq_model-4bit-32g-{number:05d}.safetensors")
    shutil.copyfile(gptq / "quantize_config.json", tmp_path / "quantize_config.json")
    (tmp_path / "README.md").write_text("not of the layout")
    GptqWeights(tmp_path).check(decoder_shapes(golden_checkpoint))
    assert {path.name for path in layout_files(tmp_path)} == {path.name for path in tmp_path.iterdir()} - {"README.md"}


def test_a_folder_of_another_model_is_refused(golden_checkpoint, gptq):
    """Its names and shapes are those of the base's decoder; another model's folder is refused."""
    GptqWeights(gptq).check(decoder_shapes(golden_checkpoint))
    other = decoder_shapes(golden_checkpoint) | {"model.norm.weight": (65,)}
    with pytest.raises(ExportError, match=r"model.norm.weight is \(64,\), this base has \(65,\)"):
        GptqWeights(gptq).check(other)
    with pytest.raises(ExportError, match="model.layers.9.x is missing"):
        GptqWeights(gptq).check(other | {"model.layers.9.x": (1,)})
