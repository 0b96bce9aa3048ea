"""Every code block of the README and of docs/ is run or parsed, page by page, from top to bottom.

The pages speak of photos, a folder of them, a clip, bundles, a repository "owner/name" and a checkpoint: here they are
two photographs, a clip made of one, the golden bundle, a local hub and the golden checkpoint. Shell lines run in this
process. Training commands, live sources and what needs hardware are only parsed: their own tests run them.
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, golden_json
from hub_server import HubServer
from PIL import Image
from test_server import served

import sdk.analyzer
import sdk.bundles.hub
from sdk.cli import _parser, main

pytest.importorskip("av")
pytest.importorskip("pandas")
pytest.importorskip("httpx")
pytest.importorskip("filelock")

ROOT = Path(__file__).parents[1]
ELSEWHERE = "reproduce.md"  # tests/test_reproduce.py runs it
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != ELSEWHERE)]
RUN = {
    "analyze",
    "ask",
    "doctor",
    "info",
    "verify",
    "video",
    "export",
    "rege",
    *(["batch"] if find_spec("pyarrow") else []),
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(language, code, first line) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory, bundle, landmark_network, astronaut, t1):
    """A folder with everything that the pages name."""
    from clips import write_clip

    desk = tmp_path_factory.mktemp("desk")
    Image.fromarray(astronaut).save(desk / "photo.jpg")
    Image.fromarray(t1).save(desk / "group.jpg")
    (desk / "faces").mkdir()
    for index in range(2):
        Image.fromarray(astronaut[: 400 + index]).save(desk / "faces" / f"{index}.png")
    write_clip(desk / "clip.mp4", [np.ascontiguousarray(astronaut[:320, 60:380])] * 10)
    (desk / "bundles").mkdir()
    names = {
        "llava-lora-emola": GOLDEN / "llava-lora-emola-trained",
        "llava-v1.5-7b": GOLDEN / "llava-base",
        "clip-vit-large-patch14-336": GOLDEN / "clip",
        "2d106det.onnx": landmark_network,
        "bundles/emola": bundle(),
    }
    for name, target in names.items():
        (desk / name).symlink_to(target)
    run = golden_json("golden_rege.json")["runs"][1]
    (desk / "eval_au_anno.json").write_text(json.dumps(run["annotations"]))
    (desk / "pred.json").write_text(json.dumps(run["predictions"]))
    return desk


@pytest.fixture
def at_the_desk(desk, bundle, monkeypatch, tmp_path):
    """The desk as the current folder, the hub on this machine, short answers, and a default bundle in any case."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("EMOLA_CACHE", str(desk / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if not sdk.bundles.hub.EMBEDDED.is_dir():
        monkeypatch.setattr(sdk.bundles.hub, "EMBEDDED", bundle())
    generate = sdk.analyzer.Pipeline.generate
    monkeypatch.setattr(
        sdk.analyzer.Pipeline,
        "generate",
        lambda self, face, question, limit=None, *rest, **options: generate(
            self, face, question, min(limit or 24, 24), *rest, **options
        ),
    )
    with HubServer(bundle()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield monkeypatch


@pytest.mark.filterwarnings("ignore::sdk.errors.QuestionWarning")  # the pages ask the model in the package, too
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, at_the_desk, capsys):
    names: dict = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        where = f"{page.name}, line {line}"
        if language == "python":
            with server_of(code) as code:
                exec(compile(code, where, "exec"), names)
        elif language in ("sh", "bash"):
            for command in shell_commands(code):
                run_command(command, where, at_the_desk, capsys)
        elif language == "json":
            json.loads(code)
        else:
            assert language in ("text", "mermaid"), f"{where}: say what the block is: python, sh, json, mermaid or text"


@contextlib.contextmanager
def server_of(code):
    """The code with the address of a server, if it asks one."""
    default = "http://127.0.0.1:8000"
    if default not in code:
        yield code
        return
    with sdk.analyzer.Analyzer() as analyzer, served(analyzer) as address:
        yield code.replace(default, address)


def shell_commands(code):
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words, where, monkeypatch, capsys):
    """Execute one shell line, or check as much of it as can be checked here."""
    name, *rest = words
    if name == "emola":
        live = rest[:1] == ["video"] and (rest[1].isdigit() or "://" in rest[1])
        # 128 real records: tests/test_gate.py exports with made-up ones; the laptop's run: tests/test_laptop.py; GPUs
        # clusters and object stores: tests/test_jobs_*.py
        elsewhere = (
            "--calibration" in rest
            or any("s3://" in word or ".laptop" in word or "-gpu" in word for word in rest)
            or ("openvino" in rest and not find_spec("openvino"))
        )
        if rest[0] == "export" and not elsewhere and Path(rest[2]).is_symlink():
            Path(rest[2]).unlink()  # the page makes what it used above
        if rest[0] in RUN and not live and not elsewhere:
            code = main(rest)
            assert code == 0, f"{where}: {' '.join(words)} -> {code}: {capsys.readouterr().err}"
        else:
            with contextlib.suppress(ModuleNotFoundError):  # an extra that this machine lacks
                _parser(rest[0]).parse_args(rest)
    elif name == "export":
        monkeypatch.setenv(*rest[0].split("=", 1))
    elif words[:3] == ["pip", "install", "torch"]:
        assert words[3:] == ["--index-url", "https://download.pytorch.org/whl/cpu"], f"{where}: PyTorch's CPU build"
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[(.*)\]", words[2])[0].split(","):
            assert f'"{extra}":' in (ROOT / "setup.py").read_text(), f"{where}: no extra {extra!r}"
    elif name == "make":
        assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text(), f"{where}: no make target {rest[0]!r}"
    elif name == "curl":
        with server_of(shlex.join(words)) as line:
            if shutil.which("curl"):
                subprocess.run([*shlex.split(line), "--fail"], check=True, capture_output=True)
    elif name == "vllm":
        assert rest[0] == "serve"  # tests/test_vllm.py starts a server with these options
    else:
        assert name == "python", f"{where}: {' '.join(words)!r} is not a command that this test knows"
        assert (ROOT / rest[0]).is_file(), f"{where}: no file {rest[0]!r}"


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target} does not exist"


def test_the_reference_names_every_field():
    """docs/results.md and the records cannot drift apart."""
    from sdk.results import ActionUnitReading, Analysis, EmotionReading, Face, FrameInfo, HeadPose, ModelInfo
    from sdk.tables import COLUMNS

    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for record in (Analysis, Face, EmotionReading, ActionUnitReading, FrameInfo, HeadPose, ModelInfo):
        for field in record.model_fields:
            assert re.search(rf"`(?:\w+\.)?{field}`", text), f"{record.__name__}.{field} is not explained"
    for column in COLUMNS:
        if not column.startswith("AU") and column not in ("sadness", "surprise", "anger", "neutral", "disgust"):
            assert f"`{column}`" in text, f"column {column} is not explained"
