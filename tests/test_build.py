"""Checkpoint to sealed bundle: parity with the authors' numbers, restarts, and what is refused."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CHECKPOINTS, GOLDEN, golden_json
from safetensors.torch import load_file, save_file
from scrfd_network import write_scrfd

from export.build import export_bundle
from export.describe import describe as describe_bundle
from export.merge import merge
from export.model import VisionModule
from export.networks import check_landmark_model
from export.options import ExportOptions
from export.prepare import needs_of, prepare
from export.quantise.calibrate import CalibrationSet
from export.quantise.gptq import GptqOptions
from export.stages import RECORD
from sdk.bundles.manifest import check_hashes, read_manifest
from sdk.errors import BackendError, CheckpointError, ExportError
from sdk.faba.prompts import QUESTIONS
from sdk.runtime.backends.ort import OrtEncoder
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.generate import Generation
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity
from trainer.checkpoint import Checkpoint, load_emola
from trainer.corpus.records import read_records
from trainer.model.weights import weight_files
from trainer.synthetic.describe import answer_language, describe_emotion, describe_units
from trainer.synthetic.expression import draw_emotion, draw_units

STAGES = 7  # merge, calibrate, gptq, graphs, reference, answers, seal


def options(out, **changes) -> ExportOptions:
    defaults = {
        "adapter": str(GOLDEN / "llava-lora-emola-trained"),
        "base": str(GOLDEN / "llava-base"),
        "vision_tower": str(GOLDEN / "clip"),
        "quantize": "none",
    }
    return ExportOptions(out=out, **{**defaults, **changes})


def open_pipeline(folder) -> Pipeline:
    manifest = read_manifest(folder)
    return Pipeline(folder, manifest, open_backend(folder, manifest))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_float32_bundle_gives_the_authors_tokens(bundle, name):
    """The authors' pixels and landmarks in, 24 greedy tokens out: 8 of 8, the second question on the first's cache."""
    pipeline = open_pipeline(bundle(name))
    with np.load(GOLDEN / "golden_eval_pixels.npz") as file:
        pixels = dict(file)
    tasks = {"AU": "action_units", "emotion": "emotion"}
    for record in golden_json(f"golden_eval_{name}.json"):
        features = np.load(GOLDEN / "data" / record["landmark"])
        face_name = record["image"].split("/")[-1].removesuffix(".png")
        rows = pipeline.backend.vision(pixels[f"eval_{face_name}"][None], features[None])[0]
        with pipeline.encode_rows(rows, features) as face:
            prompt = pipeline.manifest.prompt
            ids = pipeline.question_ids(tasks[record["task"]])
            assert [*prompt.prefix_ids, -200, *ids] == record["input_ids"]
            assert face.prefix + len(ids) == record["sequence_length"]
            pipeline.ask(face, "What is this?", Clock())
            answer = Generation(pipeline.backend.decoder, face.rewind(), ids, stop_ids=(), max_new_tokens=24)
            assert list(answer) == record["greedy_ids"]


def test_every_graph_is_within_1e_4_of_torch(bundle):
    pipeline = open_pipeline(bundle())
    reference = Reference.load(bundle() / "reference.npz")
    for parity in measure_parity(pipeline, reference):
        assert parity.max_error < 1e-4, parity
        assert parity.agreement in (None, 1.0), parity


def test_int4_is_reported_not_hidden(bundle):
    """The figure in the manifest is what the runtime measures."""
    manifest = read_manifest(bundle("trained", "int4"))
    (sealed,) = [parity for parity in manifest.parity if parity.stage == "decoder"]
    pipeline = open_pipeline(bundle("trained", "int4"))
    measured = measure_parity(pipeline, Reference.load(bundle("trained", "int4") / "reference.npz"))
    assert sealed.relative_error > 1e-3
    assert measured[-1].relative_error == pytest.approx(sealed.relative_error, rel=1e-3)
    assert sealed.agreement is not None


def test_a_merged_checkpoint_is_complete(tmp_path, emola):
    from export.merge import merge
    from trainer.checkpoint import Checkpoint

    merge(Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip"), tmp_path)
    merged, expected = load_emola(None, tmp_path).state_dict(), emola("trained").state_dict()
    assert all(bool((merged[name] == expected[name]).all()) for name in expected)


def test_without_a_landmark_network(tmp_path):
    """The bundle says what it lacks, and works from features."""
    manifest = export_bundle(options(tmp_path / "bundle"))
    assert manifest.landmark is None
    assert "landmark" not in {parity.stage for parity in manifest.parity}


def test_the_same_export_twice_is_one(tmp_path):
    first = export_bundle(options(tmp_path / "bundle"))
    log = []
    assert export_bundle(options(tmp_path / "bundle"), log.append).digest == first.digest
    assert log == [f"{tmp_path / 'bundle'} holds this export already"]
    with pytest.raises(ExportError, match="exists already and is another bundle"):
        export_bundle(options(tmp_path / "bundle", quantize="int4"))


def test_another_template_is_another_export(tmp_path):
    """The conventions of a complete checkpoint belong to its recipe, as every weight does."""
    base = tmp_path / "base"
    base.mkdir()
    merge(Checkpoint(options(base).adapter, GOLDEN / "llava-base", GOLDEN / "clip"), base)
    settings = options(tmp_path / "bundle", adapter=None, base=str(base), vision_tower=None)
    export_bundle(settings)
    card = base / "emola.json"
    card.write_text(card.read_text().replace("llava_v1", "vicuna_v1"))
    with pytest.raises(ExportError, match="exists already and is another bundle"):
        export_bundle(settings)


def test_killed_at_random_moments(tmp_path):
    """SIGKILL in each of the stages: the manifest equals that of an uninterrupted export, nothing else is left."""
    train = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    gptq = {"quantize": "gptq", "calibration": CalibrationSet(train, 12), "gptq": GptqOptions(4, 32)}
    settings = options(tmp_path / "killed" / "bundle", **gptq)
    command = [sys.executable, "-m", "sdk", "export", settings.adapter, str(settings.out)]
    command += ["--base", settings.base, "--vision-tower", settings.vision_tower, "--quantize", "gptq"]
    command += ["--calibration", str(train), "-n", "12", "--group-size", "32"]
    draw = random.Random(0)
    for finished in range(STAGES):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not _has_begun(settings.out.parent, finished):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2) if finished < STAGES - 1 else 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"the export ended before it was killed after {finished} stages"
    manifest = export_bundle(settings)
    check_hashes(settings.out, manifest)
    assert manifest.digest == export_bundle(options(tmp_path / "straight" / "bundle", **gptq)).digest
    assert sorted(path.name for path in settings.out.parent.iterdir()) == ["bundle", "bundle.report.html"]


def _has_begun(folder, finished: int) -> bool:
    """Something is written, and so many stages are recorded as finished."""
    files = [name for _, _, names in os.walk(folder) for name in names]
    return bool(files) and files.count(RECORD) >= finished


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": "nowhere"}, CheckpointError, "base 'nowhere' is not a folder"),
        ({"vision_tower": None}, CheckpointError, "--vision-tower"),
        ({"quantize": "int2"}, ExportError, "quantize must be"),
        ({"landmark_model": GOLDEN / "absent.onnx"}, ExportError, "does not exist"),
        ({"landmark_model": GOLDEN / "README.md"}, ExportError, "not an ONNX file"),
        ({"detector_model": GOLDEN / "README.md"}, BackendError, "cannot open .*README.md"),
        ({"quantize": "gptq"}, ExportError, "pass --calibration records.json, a quantised decoder"),
        ({"quantize": "gptq", "gptq_folder": GOLDEN / "absent"}, ExportError, "is not a folder"),
        ({"keep_gptq": True}, ExportError, "needs --quantize gptq"),
        ({"head_bits": 5}, ExportError, "8 or 4 bits, not 5"),
        ({"target": "pda"}, ExportError, "unknown target 'pda'; known are orin-nano-8"),
        ({"device": "cuda"}, ExportError, "no CUDA"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        export_bundle(options(tmp_path / "bundle", **changes))
    assert list(tmp_path.iterdir()) == []


def _half_checkpoint(base: Path) -> Path:
    """The golden model, complete and in float16."""
    base.mkdir()
    merge(Checkpoint(GOLDEN / "llava-lora-emola-trained", GOLDEN / "llava-base", GOLDEN / "clip"), base)
    for path in weight_files(base):
        save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    return base


def test_a_full_disk_is_found_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000})())
    with pytest.raises(ExportError, match=r"\d MB are needed, 0 MB are free"):
        export_bundle(options(tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantize", ["none", "gptq"])
def test_the_disk_space_asked_for_is_what_an_export_takes(tmp_path, monkeypatch, quantize):
    """A float32 decoder is twice its 16-bit checkpoint, and lies there twice. At the golden's size, where tokenizer and
    reference count, within -10 % and +170 % of the most that ever lay there."""
    base, out, remove, most = tmp_path / "base", tmp_path / "out", shutil.rmtree, []
    _half_checkpoint(base)

    def measure(folder, **given):
        most.append(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()))
        remove(folder, **given)

    monkeypatch.setattr("shutil.rmtree", measure)
    train = CalibrationSet(GOLDEN / "data/FABAInstruct/train/train_anno.json", 12) if quantize == "gptq" else None
    changes = {"adapter": None, "base": str(base), "vision_tower": None, "quantize": quantize}
    settings = options(out / "bundle", calibration=train, gptq=GptqOptions(4, 32), **changes)
    export_bundle(settings)
    asked = sum(1.05 * need.disk for need in needs_of(prepare(settings)))
    used = max(most)
    assert 0.9 * used <= asked <= 2.7 * used, f"{used / 1e6:.2f} MB were used, {asked / 1e6:.2f} MB asked for"


def test_a_landmark_network_of_another_shape_is_refused(bundle):
    with pytest.raises(ExportError, match=r"expected one input \(N, 3, 192, 192\).*found"):
        check_landmark_model(bundle() / "vision.onnx", 212)


def test_graphs_hold_nothing_of_the_machine_that_wrote_them(bundle):
    """The exporter of torch writes the stack of every node into the graph, with the paths of its files."""
    assert b".py" not in (bundle() / "vision.onnx").read_bytes()


def test_a_large_encoder_keeps_its_weights_in_a_file_of_their_own(tmp_path, monkeypatch):
    """The bundle lists that file and computes what torch computes."""
    monkeypatch.setattr("export.graphs.write._INLINE_BYTES", 0)
    monkeypatch.setattr("export.graphs.write._MAPPED_BYTES", 0)
    manifest = export_bundle(options(tmp_path / "bundle"))
    assert "vision.onnx.data" in manifest.files
    assert all(parity.passed for parity in manifest.parity)


def test_a_large_encoder_of_16_bit_weights_takes_half_the_bytes(tmp_path, monkeypatch):
    """CLIP as LLaVA has it: float16 in the data file, widened when the graph is opened, within 1e-4 of torch."""
    base = _half_checkpoint(tmp_path / "base")
    changes = {"adapter": None, "base": str(base), "vision_tower": None}
    monkeypatch.setattr("export.graphs.write._INLINE_BYTES", 0)
    monkeypatch.setattr("export.graphs.write._MAPPED_BYTES", 0)
    manifest = export_bundle(options(tmp_path / "bundle", quantize="int4", **changes))
    weights = sum(p.numel() for p in VisionModule(Checkpoint(None, base)).parameters())
    assert manifest.files["vision.onnx.data"].size < 1.1 * 2 * weights
    (vision,) = [parity for parity in manifest.parity if parity.stage == "vision"]
    assert vision.relative_error < 1e-4
    onnx.checker.check_model(str(tmp_path / "bundle" / "vision.onnx"))


def test_the_half_encoder_for_tensorrt(tmp_path):
    """Strongly typed float16 inside, float32 outside, within 1 % of the float32 graph; a detector travels along."""
    detector = Path(write_scrfd(str(tmp_path / "scrfd.onnx")))
    manifest = export_bundle(options(tmp_path / "bundle", tensorrt=True, detector_model=detector))
    assert (manifest.vision_half, manifest.detector) == ("vision-half.onnx", "detector.onnx")
    graphs = [OrtEncoder(tmp_path / "bundle" / name) for name in (manifest.vision, manifest.vision_half)]
    reference = Reference.load(tmp_path / "bundle/reference.npz")
    whole, half = (graph(reference.pixel_values, reference.landmark_features) for graph in graphs)
    assert half.dtype == np.float32
    assert 0 < np.linalg.norm(half - whole) < 0.01 * np.linalg.norm(whole)
    assert manifest.files["vision-half.onnx"].size < 0.75 * manifest.files["vision.onnx"].size


def test_a_gptq_bundle(tmp_path):
    """From records to a sealed bundle, closer to torch than rounding to nearest."""
    train = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    calibrated = {"calibration": CalibrationSet(train, 12), "gptq": GptqOptions(4, 32), "keep_gptq": True}
    manifest = export_bundle(options(tmp_path / "bundle", quantize="gptq", **calibrated))
    kept, variant = manifest.variants
    assert kept.backend == "gptq_cuda"
    assert (variant.name, variant.decoder) == ("ort-gptq-int4", "decoder/gptq-int4.onnx")
    assert manifest.ngrams == "answers.ngrams" in manifest.files
    assert manifest.provenance["calibration"] == "12 records of train_anno.json, seed 0"
    nearest = export_bundle(options(tmp_path / "nearest", quantize="int4"))
    assert nearest.ngrams is None, "no answers, no table"
    errors = [next(p.relative_error for p in m.parity if p.stage == "decoder") for m in (manifest, nearest)]
    assert errors[0] < errors[1], f"GPTQ {errors[0]:.3f}, round to nearest {errors[1]:.3f}"
    (tmp_path / "bundle/decoder/gptq/diary.txt").write_text("not of the layout")
    given = {"gptq_folder": tmp_path / "bundle/decoder/gptq", "keep_gptq": True, "answers": (train,)}
    again = export_bundle(options(tmp_path / "again", quantize="gptq", **given))
    assert set(again.files) == set(manifest.files), "other files than those of the layout were copied"
    for name in (variant.decoder, f"{variant.decoder}.data", manifest.ngrams):
        assert again.files[name] == manifest.files[name], "a folder taken as it is gives another decoder"


@pytest.mark.parametrize("only", [False, True])
def test_a_base_that_knows_its_training_questions_only_says_so(tmp_path, only):
    """The manifest lists the questions of the answer files for such a base, and none for a base that knows language."""
    answers = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    job = prepare(options(tmp_path / "bundle", answers=(answers,)))
    conventions = dataclasses.replace(job.checkpoint.conventions, known_questions_only=only)
    job.checkpoint.conventions = conventions
    prompt = describe_bundle(job, job.checkpoint, None).prompt
    assert prompt.known_questions == (tuple(sorted({row.question for row in read_records(answers)})) if only else None)
    assert prompt.knows("Is it raining?") is not only
    assert prompt.knows(QUESTIONS["emotion"])


@pytest.mark.parametrize("rendered", [False, True])
def test_texts_about_renders_give_the_bundle_their_language(tmp_path, rendered):
    """Only if every training answer belongs to it; FABA-Instruct's do not."""
    path = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    job = prepare(options(tmp_path / "bundle", answers=(path,)))
    if rendered:
        random = np.random.default_rng(0)
        job.answers[:] = [
            dataclasses.replace(record, answer=describe(draw(random), random))
            for record in job.answers
            for draw, describe in ((draw_emotion, describe_emotion), (draw_units, describe_units))
        ]
    assert describe_bundle(job, job.checkpoint, None).language == (answer_language() if rendered else None)
