"""`emola check`: one verdict on the machine that will run a bundle, without torch."""

import itertools
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import GOLDEN

from export.targets.here import plan_here
from export.targets.latency import StageTime, stage_times
from export.targets.machines import TARGETS, recognise
from export.targets.plan import LLAVA_7B, encoder_weights, plan
from sdk.bundles.files import FileRecord, file_sha256
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import MANIFEST, read_manifest
from sdk.bundles.measured import Latency
from sdk.cli import main
from sdk.errors import ExportError
from sdk.runtime import latency

ANY_TIME = ("--max-latency", "1e6")  # no test depends on how fast a machine is
WITHOUT_TORCH = """
import sys
HIDDEN = "torch transformers peft accelerate onnx triton sentencepiece matplotlib tqdm".split()
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hide())
from sdk.cli import main
sys.exit(main(sys.argv[1:]))
"""


def check(folder, capsys, *options):
    """Exit code, JSON document and what was said on stderr."""
    code = main(["check", str(folder), "--json", *options])
    output = capsys.readouterr()
    return code, json.loads(output.out), output.err


def verdicts(found):
    return {each["part"]: each["verdict"] for each in found["findings"]}


def test_the_embedded_model_passes_without_torch(tmp_path):
    """Exit code 0, one JSON document on stdout, a page, and REGE is said to be unjudged."""
    command = ["check", "--json", "--html", str(tmp_path / "page.html"), *ANY_TIME]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert verdicts(found) | {"latency": "passed"} == {
        "files": "passed",
        "parity": "passed",
        "first tokens": "passed",
        "latency": "passed",
        "REGE": "not judged",
    }
    stages = {each["figures"]["stage"]: each["figures"] for each in found["findings"] if each["part"] == "latency"}
    assert {"vision", "prefill", "question", "token", "first token", "landmark"} == {*stages}
    assert stages["token"]["plan"].startswith("ceilings measured on this CPU")
    page = (tmp_path / "page.html").read_text()
    assert "emola-nano" in page
    assert "not judged: REGE" in page


def test_what_is_too_slow_fails_and_says_by_how_much(capsys):
    code, found, message = check(EMBEDDED, capsys, "--max-latency", "1e-9")
    assert code == 1
    failed = [each["figures"]["stage"] for each in found["findings"] if each["verdict"] == "failed"]
    assert failed == ["vision", "prefill", "question", "token", "first token"]
    assert "times the plan, at most 1e-09 times is allowed" in message
    token = next(each["figures"] for each in found["findings"] if each["figures"].get("stage") == "token")
    assert token["ratio"] == pytest.approx(token["p50_ms"] / max(token["planned_ms"], 1))


def test_a_decoder_of_another_quantisation_fails(bundle, tmp_path, capsys):
    """Found by its hash; and where the manifest was made to match it, by its parity."""
    folder, other = tmp_path / "bundle", bundle("trained", "int4")
    shutil.copytree(bundle(), folder)
    for suffix in ("", ".data"):
        shutil.copyfile(other / f"decoder/int4.onnx{suffix}", folder / f"decoder/int4.onnx{suffix}")
    manifest, good = read_manifest(folder), (folder / "decoder/float32.onnx").read_bytes()
    shutil.copyfile(other / "decoder/int4.onnx", folder / "decoder/float32.onnx")
    code, found, message = check(folder, capsys, *ANY_TIME)
    assert code == 1
    assert verdicts(found)["files"] == "failed"
    assert {*verdicts(found).values()} == {"failed", "not judged"}, "nothing of a damaged bundle is judged"
    assert "float32.onnx" in message
    (folder / "decoder/float32.onnx").write_bytes(good)
    variant = manifest.variants[0].model_copy(
        update={"decoder": "decoder/int4.onnx", "external": ("decoder/int4.onnx.data",)}
    )
    names = (variant.decoder, *variant.external)
    records = {
        name: FileRecord(size=(folder / name).stat().st_size, sha256=file_sha256(folder / name)) for name in names
    }
    forged = manifest.model_copy(update={"variants": (variant,), "files": {**manifest.files, **records}})
    (folder / MANIFEST).write_text(forged.to_json())
    code, found, message = check(folder, capsys, *ANY_TIME)
    assert code == 1
    assert verdicts(found)["files"] == "passed"
    assert "parity: decoder: relative error" in message


def test_rege_needs_answers_and_the_same_data(bundle, tmp_path, capsys):
    """A bundle without answers refuses before it is opened; so do other records and other pictures."""
    data = tmp_path / "eval.json"
    data.write_text("[]")
    assert main(["check", str(bundle()), "--evaluation", str(data)]) == 1
    assert "holds no answers of the torch model" in capsys.readouterr().err


def test_stored_answers_belong_to_their_files(tmp_path):
    """A record, a picture or a landmark file that torch did not see is refused."""
    from sdk.errors import DataError
    from trainer.evaluation.evaluate import EvaluationSet
    from trainer.evaluation.parity import compare_answers, open_evaluation, torch_answers

    root = tmp_path / "root"
    shutil.copytree(GOLDEN / "data/FABAInstruct/train", root / "FABAInstruct/train")
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:3]
    content = [
        {"image": row["image"], "landmark": row["landmark"], "label": index, "gpt4": "She is happy."}
        for index, row in enumerate(rows)
    ]
    path = root / "eval.json"
    path.write_text(json.dumps(content))
    evaluation = EvaluationSet.read(path, "emotion")
    stored = torch_answers("torch", evaluation, ["She is happy.", "He is sad.", "A face."], 64)
    assert "happy" not in stored.model_dump_json().replace("She is happy.", "", 1), "annotations are not stored"
    same = open_evaluation(path, stored, None)
    assert same.digest == stored.data == evaluation.digest
    found = compare_answers(["She is happy.", "He is sad.", "A face."], stored, same)
    assert (found.difference, found.samples) == (0, 3)
    worse = compare_answers(["No."] * 3, stored, same)
    assert worse.difference < -40
    first, landmark = root / rows[0]["image"], root / rows[1]["landmark"]
    for file in (first, landmark):
        kept = file.read_bytes()
        file.write_bytes(kept + b"0")
        with pytest.raises(DataError, match="is missing or not the file that torch saw"):
            open_evaluation(path, stored, None)
        file.write_bytes(kept)
    path.write_text(json.dumps([{**content[0], "label": 5}, *content[1:]]))
    with pytest.raises(DataError, match="is not the record that torch answered"):
        open_evaluation(path, stored, None)
    path.write_text(json.dumps(content[:2]))
    with pytest.raises(DataError, match="holds 2 records, torch answered 3"):
        open_evaluation(path, stored, None)
    assert len(open_evaluation(path, stored, None, limit=2).records) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA Jetson AGX Orin Developer Kit, Orin (nvgpu)", "agx-orin-64"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "orin-nano-8"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("a machine without a name", None),
    ],
)
def test_machines_are_recognised_by_name(name, expected):
    assert recognise(name) == expected


def test_a_machine_is_judged_by_its_own_plan(bundle, monkeypatch):
    """A GPU by its data sheet, one that nobody knows not at all, and a named target in any case."""
    manifest = read_manifest(bundle())
    on_gpu = manifest.variants[0].model_copy(update={"device": "cuda"})
    backend = SimpleNamespace(name=on_gpu.name, variant=on_gpu, on_gpu=True)
    monkeypatch.setattr("export.targets.here.machine_name", lambda: "NVIDIA GeForce RTX 4090")
    here = plan_here(bundle(), manifest, backend, None)
    assert (here.plan.target, here.source) == ("rtx-4090", "data sheet of GeForce RTX 4090 (target rtx-4090)")
    monkeypatch.setattr("export.targets.here.machine_name", lambda: "NVIDIA Anything")
    here = plan_here(bundle(), manifest, backend, None)
    assert here.plan is None
    assert "NVIDIA Anything is not a known target" in here.source
    assert plan_here(bundle(), manifest, backend, "thor").plan.target == "thor"
    engines_beside_a_cpu = SimpleNamespace(name="tensorrt+ort-float32", variant=manifest.variants[0], on_gpu=True)
    assert plan_here(bundle(), manifest, engines_beside_a_cpu, None).plan is None, "it is not planned as a CPU"
    with pytest.raises(ExportError, match="unknown target 'tpu'"):
        plan_here(bundle(), manifest, backend, "tpu")


def test_stage_times_beside_a_plan():
    """The parts of the first token are those of the plan; a plan below 25 ms counts as 25, of a token below 1 as 1."""
    expected = plan("rtx-4090", TARGETS["rtx-4090"], LLAVA_7B)
    parts = expected.stages_ms
    assert expected.first_token_ms == pytest.approx(parts["vision"] + parts["prefill"] + parts["token"], abs=0.1)
    assert parts["token"] == pytest.approx(1000 / expected.tokens_per_s, rel=0.01)
    assert expected.second_question_ms == pytest.approx(parts["question"], abs=0.1)
    measured = [
        Latency(variant="x", stage=stage, p50_ms=2 * max(parts[stage], 1 if stage == "token" else 25), p95_ms=999)
        for stage in ("vision", "prefill", "question", "token")
    ]
    for factor, passed in ((2.01, True), (1.99, False)):
        times = {time.stage: time for time in stage_times(measured, expected, factor)}
        assert {times[stage].passed for stage in parts} == {passed}
    assert StageTime("token", 0.9, 0.9, 0.1, 1.0).passed
    assert not StageTime("token", 1.1, 1.1, 0.1, 1.0).passed
    assert StageTime("vision", 24, 24, 0.1, 1.0).passed
    assert "that is 2 times the plan, at most 1.99 times is allowed" in str(times["token"])


def test_weights_of_the_encoder_are_recorded(bundle, emola):
    """New bundles record them; of older ones they are counted in the graph."""
    manifest = read_manifest(bundle())
    torch_weights = sum(p.numel() for name, p in emola("trained").named_parameters() if "language_model" not in name)
    assert encoder_weights(bundle(), manifest) == torch_weights
    older = manifest.model_copy(update={"encoder_weights": None})
    assert 0.75 * torch_weights < encoder_weights(bundle(), older) <= torch_weights


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 8), (20, 7), (61, 4)])
def test_slow_stages_are_timed_fewer_times(seconds, rounds, monkeypatch):
    """A 7B model on a laptop takes a minute for a few rounds; three are always counted."""
    clock = itertools.count(0, seconds)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert [*latency._rounds()] == [*range(rounds)]
