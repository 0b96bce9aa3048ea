"""`emola bench`: what the report holds, what counts as a regression, what the meters read. No test is timed."""

import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest

from sdk.bench import energy
from sdk.bench.ceilings import floors
from sdk.bench.compare import compare, differences
from sdk.bench.energy import SensorMeter, find_meter
from sdk.bench.footprint import resident
from sdk.bench.page import html_page, text
from sdk.bench.probe import int4_matmul
from sdk.bench.report import Ceilings, Energy, Report, Stage, read_report
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.errors import UsageError
from sdk.runtime.backends.ort import OrtEncoder
from sdk.runtime.backends.tensorrt import Engines

pytest.importorskip("onnxruntime")
BENCH = ["bench", "--rounds", "3", "--photo", str(PICTURES / "rendered.jpg"), "--faces", "aligned", "--json"]


def report(seed=0, moods=(1.0,), **scales) -> Report:
    """A made-up run of 15 rounds with 3 % noise from round to round; `step=1.2` makes the steps slower.

    Args:
        moods: how slow the machine is, round by round and over again.
    """
    random = np.random.default_rng(seed)
    stages = tuple(
        Stage(
            name=name,
            rounds=tuple(
                tuple(ms * scales.get(name, 1) * moods[index % len(moods)] * drift * random.normal(1, 0.01, visits))
                for index, drift in enumerate(random.normal(1, 0.03, 15))
            ),
        )
        for name, ms, visits in (("vision", 40.0, 1), ("step", 17.0, 32), ("control", 7.0, 6))
    )
    return Report(
        model="a <model>",
        digest="0" * 64,
        variant="ort-int4",
        notice="for tests & nothing else",
        made="2026-01-01",
        environment={"processor": "P"},
        ceilings=Ceilings(),
        stages=stages,
        tokens_per_second=50.0,
        footprints=(),
        energy=Energy(source="none"),
        parity={},
    )


def verdicts(new, old):
    return [change.verdict for change in compare(new, old)]


def test_a_slower_run_is_flagged_and_noise_is_not():
    """A step that takes 1.3 times as long is slower, one of 0.7 faster; the stage beside it or an equal run neither."""
    found = {scale: verdicts(report(1, step=scale), report()) for scale in (0.7, 1.0, 1.3)}
    assert found == {0.7: ["same", "faster"], 1.0: ["same", "same"], 1.3: ["same", "slower"]}
    change = compare(report(1, step=1.3), report())[1]
    assert change.low < 1.3 < change.high


def test_a_machine_in_another_mood_is_no_regression():
    """Twice as slow in two rounds of three, whatever it does: the milliseconds double, the verdicts stay."""
    moods = (2.0, 1.0, 2.0)
    assert verdicts(report(1, moods), report()) == ["same", "same"]
    assert all(change.raw > 1.8 for change in compare(report(1, moods), report()))
    assert verdicts(report(1, moods, step=1.3), report()) == ["same", "slower"]


def test_visits_of_one_round_are_one_sample():
    """A hundred fast visits in every round do not make the interval of fifteen noisy rounds narrow."""
    few = [change.high - change.low for change in compare(report(1), report())]
    assert few[1] > few[0] / 3


def test_other_machines_and_models_are_named():
    other = report().model_copy(update={"environment": {"processor": "Q"}, "digest": "1" * 64})
    found = " ".join(differences(other, report()))
    assert "processor: P -> Q" in found
    assert "model: a <model>" in found
    assert differences(report(), report()) == []


def test_the_page_needs_nothing_else_and_says_the_notice():
    page = html_page(report(), compare(report(step=1.2), report())).decode()
    assert "for tests &amp; nothing else" in page
    assert "a &lt;model&gt;" in page
    assert "<svg" in page
    assert "slower" in page
    assert not re.search(r"(?:src|href)=|url\(|@import|<script|https?:", page), "something is loaded from elsewhere"
    assert "step" in text(report())


def test_the_speed_counts_one_token_for_each_step():
    """Drafts and forced tokens are in the other figure, which they change; both are in the JSON, which can be read."""
    found = report()
    assert found.steps_per_second == pytest.approx(1000 / 17, rel=0.03)
    assert found.model_copy(update={"tokens_per_second": 900.0}).steps_per_second == found.steps_per_second
    written = found.to_dict()
    assert (written["steps_per_second"], written["tokens_per_second"]) == (found.steps_per_second, 50.0)
    assert Report.model_validate(written) == found
    shown = text(found)
    assert f"tokens per second  {found.steps_per_second:.1f}, one for each decode step" in shown
    assert "with drafts        50.0" in shown


def test_floors_follow_from_the_geometry():
    """Of emola-nano by hand: a step reads all weights of the decoder and 73 rows of 3 x 2 x 192 floats."""
    manifest = read_manifest(EMBEDDED)
    (variant,) = manifest.variants
    ceilings = Ceilings(bandwidth_gbs=10.0, float32_gflops=100.0, int4_gflops=200.0)
    found = floors(manifest, variant, ceilings)
    files = manifest.files
    weights = sum(files[name].size for name in (variant.decoder, *variant.external))
    assert found["step"].bytes == weights + 73 * 3 * 2 * 192 * 4
    assert found["step"].ms == pytest.approx(max(found["step"].bytes / 10e6, found["step"].flops / 200e6))
    linear = 3 * (4 * 192 * 192 + 3 * 192 * 512)
    assert found["prefill"].flops == 2 * (65 * linear + 1024 * 192) + 2 * 65 * 65 * 3 * 192
    assert found["prefill"].bound == "compute"
    assert found["vision"].flops == files[manifest.vision].size / 2 * 50
    assert floors(manifest, variant, Ceilings(reason="a GPU")) == {}


def test_the_probe_is_valid_onnx_and_multiplies():
    """onnx's checker takes what was encoded by hand; ONNX Runtime's product is right within its 8-bit activations."""
    onnx = pytest.importorskip("onnx")
    from onnxruntime import InferenceSession

    model = int4_matmul(256, 384)
    graph = onnx.load_from_string(model).graph
    onnx.checker.check_model(model)
    packed = np.frombuffer(graph.initializer[0].raw_data, np.uint8).reshape(384, 128)
    weights = np.stack([packed & 15, packed >> 4], -1).reshape(384, 256).astype(np.float32) - 8
    x = np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)
    (y,) = InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = x @ (0.01 * weights).T
    assert np.linalg.norm(y - expected) < 0.02 * np.linalg.norm(expected)


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_rapl_counts_every_package_once_and_wraps(tmp_path):
    package = write(tmp_path / "intel-rapl:0", name="package-0", energy_uj=900, max_energy_range_uj=1000)
    write(tmp_path / "intel-rapl:0:0", name="core", energy_uj=1)
    second = write(tmp_path / "intel-rapl:1", name="package-1", energy_uj=0, max_energy_range_uj=1000)
    meter = find_meter(powercap=tmp_path, hwmon=tmp_path)
    assert meter.source == "RAPL: package-0, package-1"
    meter.start()
    (package / "energy_uj").write_text("200")
    (second / "energy_uj").write_text("500")
    assert meter.stop() == pytest.approx(800e-6)


def test_the_sensors_of_a_jetson_are_summed_over_time(tmp_path, monkeypatch):
    """Without a rail for the whole board the rails add up: 5 V x 2 A + 12.5 W, for two seconds of a clock of ours."""
    rails = write(tmp_path / "hwmon0", name="ina3221", in1_input=5000, curr1_input=2000, in1_label="VDD_CPU")
    write(tmp_path / "hwmon1", name="ina226", power1_input=12_500_000)
    write(tmp_path / "hwmon2", name="coretemp", power1_input=99_000_000)
    now = iter([0.0, 2.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(SensorMeter, "_run", lambda self: None)
    meter = find_meter(powercap=tmp_path / "none", hwmon=tmp_path)
    meter.start()
    assert meter.stop() == pytest.approx(2 * 22.5)
    for name, value in {"in2_input": 19000, "curr2_input": 1000, "in2_label": "VDD_IN"}.items():
        (rails / name).write_text(f"{value}")
    assert energy._watts(rails) == pytest.approx(19), "the rail of the whole board stands alone"


def test_a_machine_without_sensors_does_not_tell(tmp_path):
    write(tmp_path / "intel-rapl:0", name="package-0")  # root alone may read energy_uj
    assert find_meter(powercap=tmp_path, hwmon=tmp_path) is None


def test_resident_memory_grows_by_what_is_touched():
    before = resident()
    if before["resident"] is None:
        pytest.skip("this system says only the peak")
    block = np.ones(64_000_000 // 8)
    after = resident()
    assert 50 < after["resident"] - before["resident"] < 90
    assert after["peak"] >= after["resident"] - 1
    assert block.all(), "it is still there"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One real run of the embedded bundle on a rendered face: the JSON document and the page."""
    folder = tmp_path_factory.mktemp("bench")
    peers = folder / "peers.json"
    peers.write_text('a line before\n{"llama.cpp": {"step_ms": 15.1}}\n')
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*BENCH, "--html", str(folder / "page.html"), "--peers", str(peers)])
    assert code == 0
    (folder / "old.json").write_text(out.getvalue())
    return folder


def test_the_document_has_every_part_and_reads_back(measured):
    content = json.loads((measured / "old.json").read_text())
    stages = {stage["name"]: stage for stage in content["stages"]}
    assert list(stages) == ["load", "landmark", "vision", "prefill", "question", "step", "parse", "analyze", "control"]
    assert all(len(stage["rounds"]) == 3 for stage in stages.values())
    assert len(stages["step"]["rounds"][0]) == 32
    assert stages["step"]["median_ms"] <= stages["step"]["p95_ms"]
    assert stages["prefill"]["share"] > 0
    assert content["parity"].keys() == {"landmark", "vision", "decoder"}
    (footprint,) = content["footprints"]
    assert footprint["failure"] is None
    assert footprint["import_ms"] < footprint["open_ms"] < footprint["first_token_ms"] < footprint["done_ms"]
    assert content["peers"] == {"llama.cpp": {"step_ms": 15.1}}
    assert {"processor", "onnxruntime", "python"} <= content["environment"].keys()
    assert read_report(measured / "old.json").to_dict() == content
    assert "not for decisions about people" in (measured / "page.html").read_text()


def test_a_regression_exits_with_1(measured, tmp_path, capsys):
    """Against times that are divided by a million everything is slower; the report is printed all the same."""
    content = json.loads((measured / "old.json").read_text())
    for stage in content["stages"]:
        if stage["name"] != "control":
            stage["rounds"] = [[ms / 1e6 for ms in visits] for visits in stage["rounds"]]
    fast = tmp_path / "fast.json"
    fast.write_text(json.dumps(content))
    assert main([*BENCH, "--compare", str(fast)]) == 1
    captured = capsys.readouterr()
    assert {change["verdict"] for change in json.loads(captured.out)["comparison"]} == {"slower"}
    assert "slower than" in captured.err
    assert "Traceback" not in captured.err


def test_wrong_usage_is_said_before_anything_runs(tmp_path, capsys):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text("{}")
    for number, content in enumerate(('{"stages": 5}', '{"stages": ["x"]}', '{"energy": null}')):
        (tmp_path / f"{number}.json").write_text(content)
    for options, message in (
        (["--rounds", "2"], "at least 3"),
        (["--compare", str(tmp_path / "none.json")], "cannot be read"),
        (["--compare", str(tmp_path / "list.json")], "expected a JSON object"),
        (["--compare", str(tmp_path / "other.json")], "is not a report"),
        *((["--compare", str(tmp_path / f"{number}.json")], "is not a report") for number in range(3)),
        (["--html", str(tmp_path / "none" / "a.html")], "in an existing folder"),
        (["--html", str(tmp_path)], "the name of a file"),
        (["--device", "abacus"], "invalid choice"),
    ):
        assert main(["bench", *options]) == 2, options
        captured = capsys.readouterr()
        assert message in captured.err
        assert not captured.out
    with pytest.raises(UsageError):
        read_report(tmp_path / "other.json")


@pytest.fixture
def with_engines(tmp_path, monkeypatch):
    """The embedded bundle with a vision engine that differs from torch by 2e-4, as float16 may."""
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    (bundle / "engines").mkdir()
    exact = OrtEncoder(bundle / read_manifest(bundle).vision)

    def vision(*arrays):
        return exact(*arrays) * np.float32(1 + 2e-4)

    engines = Engines({"vision": vision}, {"vision": 4e-4})
    monkeypatch.setattr("sdk.runtime.backends.tensorrt.open_engines", lambda bundle, manifest: engines)
    return bundle


def test_a_variant_with_engines_is_timed(with_engines, capsys):
    """Its encoders may differ as `engines.json` allows, its decoder as was sealed for the variant of the manifest."""
    assert main([*BENCH, "--bundle", str(with_engines)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["variant"].startswith("tensorrt+")
    assert content["parity"]["vision"] == pytest.approx(2e-4, rel=0.1)


def test_verify_and_bench_allow_the_same_error():
    """What was sealed for this variant, else for another one, else what float32 gives: one answer for both commands."""
    manifest = read_manifest(EMBEDDED)
    (variant,) = manifest.variants
    sealed = {parity.stage: parity.tolerance for parity in manifest.parity}
    assert manifest.tolerance(variant.name, "decoder") == sealed["decoder"] > 1e-3
    assert manifest.tolerance("of another name", "decoder") == sealed["decoder"]
    assert manifest.model_copy(update={"parity": ()}).tolerance(variant.name, "decoder") == 1e-4
