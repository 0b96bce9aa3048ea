"""The gate: what falls short is not sealed, the report says by how much, and overruling is recorded."""

import dataclasses
import json
import re

import pytest
from conftest import GOLDEN

from export.build import export_bundle
from export.commands.export import _print
from export.options import ExportOptions, GateOptions
from sdk.bundles.evaluation import TorchAnswers
from sdk.bundles.manifest import MANIFEST, read_manifest
from sdk.cli import main
from sdk.errors import ExportError


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Four pictures of the golden set with labels that the random checkpoint cannot know."""
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:4]
    texts = ("The person is happy.", "This face shows sadness.", "An angry look.", "Surprise is written here.")
    found = [
        {"image": row["image"], "landmark": row["landmark"], "label": label, "gpt4": text}
        for row, label, text in zip(rows, ("0", "1", "4", "2"), texts, strict=True)
    ]
    path = tmp_path_factory.mktemp("evaluation") / "eval.json"
    path.write_text(json.dumps(found))
    return path


def options(out, **gate) -> ExportOptions:
    return ExportOptions(
        adapter=str(GOLDEN / "llava-lora-emola-trained"),
        base=str(GOLDEN / "llava-base"),
        vision_tower=str(GOLDEN / "clip"),
        out=out,
        quantize="none",
        gate=GateOptions(root=GOLDEN / "data", **gate),
    )


def test_a_float32_bundle_answers_as_torch_does(tmp_path, evaluation, capsys):
    """REGE on the evaluation set: equal, difference 0; the figures are printed and in manifest and report."""
    asked = options(tmp_path / "bundle", evaluation=evaluation)
    manifest = export_bundle(asked)
    _print(manifest, asked)
    assert re.search(
        r"REGE emotion, FABA, 4 samples: torch [\d.]+, bundle [\d.]+, difference \+0.00", capsys.readouterr()[0]
    )
    gate = manifest.gate
    assert (gate.failures, gate.overruled) == ((), False)
    assert (gate.rege.samples, gate.rege.difference) == (4, 0.0)
    assert gate.rege.reference == gate.rege.measured
    assert (gate.rege.computed, manifest.environment["reference"]) == ("float32 on cpu", "float32 on cpu")
    decoder = manifest.parity[-1]
    assert (decoder.first_tokens, decoder.cosine) == (1.0, pytest.approx(1))
    assert {latency.stage for latency in manifest.latency} == {"vision", "prefill", "question", "token"}
    assert all(0 < latency.p50_ms <= latency.p95_ms for latency in manifest.latency)
    stored = TorchAnswers.load(tmp_path / "bundle" / manifest.evaluation)
    assert (stored.data, len(stored.answers)) == (gate.rege.data, 4)
    assert "float32" in stored.model
    assert manifest.evaluation in manifest.files
    report = (tmp_path / "bundle.report.html").read_text()
    assert "Every threshold that was judged is met" in report
    assert "Not judged: latency: no --target was given" in report
    assert report.count("data:image/png") == 1


def test_what_falls_short_is_not_sealed_unless_overruled(tmp_path, evaluation):
    """A drop of at most -1 point asks for a gain, which nothing can give here."""
    asked = {"evaluation": evaluation, "rege_drop": -1.0}
    with pytest.raises(ExportError, match=r"not sealed: REGE drops by -?0.00 points .* at most -1.00"):
        export_bundle(options(tmp_path / "bundle", **asked))
    assert not (tmp_path / "bundle").exists()
    assert "REGE drops" in (tmp_path / "bundle.report.html").read_text()
    export_bundle(options(tmp_path / "bundle", allow=True, **asked))
    gate = read_manifest(tmp_path / "bundle").gate
    assert gate.overruled
    assert gate.failures[0].startswith("REGE drops")


def test_another_machine_is_said_to_be_unjudged(tmp_path, capsys):
    """No latency is judged for a GPU that this machine is not: report, `emola info` and manifest say so."""
    settings = dataclasses.replace(options(tmp_path / "bundle", latency_factor=1e-9), target="rtx-4090")
    manifest = export_bundle(settings)
    line = "latency on rtx-4090: not judged here; run emola check --target rtx-4090 there"
    assert line in manifest.gate.unjudged
    report = (tmp_path / "bundle.report.html").read_text()
    assert "Every threshold is met" not in report
    assert line in report
    assert main(["info", str(settings.out)]) == 0
    assert "latency on rtx-4090: not judged here" in capsys.readouterr().out
    log = []
    assert export_bundle(settings, log.append) == manifest
    assert log[-1].endswith("holds this export already")
    thor = export_bundle(dataclasses.replace(settings, target="thor"), log.append)
    assert log[-1].endswith("manifest and report record the verdict")
    assert any("latency on thor" in line for line in thor.gate.unjudged)
    assert thor.digest == manifest.digest


def test_a_decoder_that_agrees_with_torch_on_almost_nothing_is_not_sealed(tmp_path):
    """Random weights, 64 wide, in 4 bits: 5 % of the tokens and no first token. Only --allow seals it, on record."""
    random = dataclasses.replace(
        options(tmp_path / "bundle"), adapter=str(GOLDEN / "llava-lora-emola-init"), quantize="int4"
    )
    with pytest.raises(
        ExportError, match=r"not sealed: .* % of the tokens of ort-int4 equal torch's, and \d+ % of the first"
    ):
        export_bundle(random)
    assert not random.out.exists()
    manifest = export_bundle(dataclasses.replace(random, gate=dataclasses.replace(random.gate, allow=True)))
    assert manifest.gate.overruled
    assert manifest.parity[-1].agreement < 2 / 24
    assert manifest.parity[-1].first_tokens < 1 / 2


def test_what_is_not_judged_yet_is_no_bundle(tmp_path, evaluation, monkeypatch):
    """A run that ends in the middle of the gate leaves nothing that opens."""

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("export.measure.answer", stop)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(options(tmp_path / "bundle", evaluation=evaluation))
    assert (tmp_path / "bundle.work/seal.partial/vision.onnx").is_file()
    assert not list(tmp_path.rglob(MANIFEST))


def test_the_digest_does_not_depend_on_the_clock(tmp_path, monkeypatch):
    """Neither on the latencies nor on what is said of those that fall short; the manifest has both."""
    for name in ("LEAST_MS", "LEAST_TOKEN_MS"):
        monkeypatch.setattr(f"export.targets.latency.{name}", 0)
    settings = dataclasses.replace(options(tmp_path / "bundle", latency_factor=1e-9), target="cpu")
    with pytest.raises(ExportError, match=r"not sealed: first token: .* ms, planned .*; token: .* at most 1e-09 times"):
        export_bundle(settings)
    allowed = dataclasses.replace(settings.gate, allow=True)
    manifests = [
        export_bundle(dataclasses.replace(settings, gate=allowed, out=tmp_path / name / "bundle")) for name in "ab"
    ]
    assert manifests[0].latency != manifests[1].latency
    assert [len(manifest.gate.slow) for manifest in manifests] == [2, 2]
    silent = manifests[0].gate.model_copy(update={"slow": ()})
    assert manifests[0].model_copy(update={"gate": silent}).digest_of() == manifests[0].digest
    assert manifests[0].digest == manifests[1].digest


def test_a_stricter_gate_is_judged_on_a_sealed_bundle(tmp_path, evaluation):
    """Refused without touching the bundle, recorded when overruled; what asks for no more changes nothing."""
    out, log = tmp_path / "bundle", []
    sealed = export_bundle(options(out))
    asked = {"evaluation": evaluation, "rege_drop": -1.0}
    with pytest.raises(ExportError, match="stays .* does not meet the current thresholds: REGE drops by"):
        export_bundle(options(out, **asked))
    assert read_manifest(out) == sealed
    overruled = export_bundle(options(out, allow=True, **asked), log.append)
    assert overruled.gate.overruled
    assert overruled.gate.rege.samples == 4
    assert log[-1].endswith("it was judged again, manifest and report record the verdict")
    assert "Overruled" in (tmp_path / "bundle.report.html").read_text()
    assert export_bundle(options(out, evaluation=evaluation), log.append) == read_manifest(out) == overruled
    assert log[-1] == f"{out} holds this export already"
    with pytest.raises(ExportError, match="REGE drops by"):  # from the figures that it carries
        export_bundle(options(out, rege_drop=-0.5))


def test_latency_is_judged_again_from_the_figures_of_a_sealed_bundle(tmp_path, monkeypatch):
    """A target named later: refused if it is too slow, recorded when overruled; asked again, nothing changes."""
    for name in ("LEAST_MS", "LEAST_TOKEN_MS"):
        monkeypatch.setattr(f"export.targets.latency.{name}", 0)
    monkeypatch.setattr("export.targets.plan._LAYER_S", 0)
    settings, log = options(tmp_path / "bundle"), []
    sealed = export_bundle(settings)
    on_cpu = dataclasses.replace(settings, target="cpu")
    with pytest.raises(ExportError, match=r"stays as it is, .*: first token: .*; token: .* at most 1.5"):
        export_bundle(on_cpu)
    assert read_manifest(settings.out) == sealed
    assert "Every threshold that was judged is met" in (tmp_path / "bundle.report.html").read_text()
    allowed = dataclasses.replace(on_cpu, gate=dataclasses.replace(on_cpu.gate, allow=True))
    overruled = export_bundle(allowed, log.append)
    assert (overruled.latency, overruled.digest) == (sealed.latency, sealed.digest)
    assert [line.split(":")[0] for line in overruled.gate.slow] == ["first token", "token"]
    assert "Overruled" in (tmp_path / "bundle.report.html").read_text()
    assert export_bundle(allowed, log.append) == overruled
    assert log[-2].endswith("manifest and report record the verdict")
    assert log[-1] == f"{settings.out} holds this export already"
