"""Artefacts that several tests share, made once by the real code."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when torch or a kernel imports it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; OpenMP threads that wait for a core spin

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from landmark_network import write_landmark_network
from PIL import Image

# A shell that starts the tests in the background, or nohup, lets them ignore signals that their child processes need.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)

GOLDEN = Path(__file__).parent / "data" / "golden"
CHECKPOINTS = ("init", "trained")
SHARED = Path(__file__).parents[2] / "shared"  # beside the checkout of a developer
FACE_MODEL = Path(os.environ.get("EMOLA_FACE_MODEL", SHARED / "face_model/ict_face_model_light.npz"))

# Files that export, train or render; they start first, and `make test-fast` leaves them out.
SLOW = """
    alignment analyzer annotate baselines batch build cli compiled docker docs full_disk gate gptq_cuda gptq_kernels
    hub_checkpoints laptop layerwise paper prepare pretrain priors pruning quantised_cache recipe reference
    rege_parity rehearsal reliability reproduce synthetic target_check trackers train video
""".split()  # noqa: SIM905, a list would have a line for each


def is_slow(item) -> bool:
    return item.path.stem.removeprefix("test_") in SLOW


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: not is_slow(item))
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)


def golden_json(name: str):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the authors' numbers; its README says what is what."""
    return GOLDEN


@pytest.fixture(scope="session")
def landmark_network(tmp_path_factory) -> Path:
    return write_landmark_network(tmp_path_factory.mktemp("landmark") / "landmark.onnx")


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> Path:
    """A made-up face model; see `made_up_head`."""
    from made_up_head import write_head

    return write_head(tmp_path_factory.mktemp("head") / "head.npz")


@pytest.fixture(scope="session")
def real_studio():
    """A studio with the head of ICT-FaceKit, which the repository does not hold."""
    from trainer.synthetic.face_model import read_face_model
    from trainer.synthetic.scene import Studio

    if not FACE_MODEL.exists():
        pytest.skip(f"no ICT-FaceKit at {FACE_MODEL}: clone it and set EMOLA_FACE_MODEL")
    return Studio(read_face_model(FACE_MODEL))


@pytest.fixture(scope="session")
def emola() -> Callable:
    """`emola("trained")`: the torch model of a golden checkpoint."""
    pytest.importorskip("torch")
    from trainer.checkpoint import load_emola

    models = {}

    def load(name: str, lora: str = "merged"):
        if (name, lora) not in models:
            adapter = GOLDEN / f"llava-lora-emola-{name}"
            models[name, lora] = load_emola(adapter, GOLDEN / "llava-base", GOLDEN / "clip", lora=lora)
        return models[name, lora]

    return load


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """A complete checkpoint of the golden's shape that was trained on 8 of its 12 records: 40 steps, a few seconds."""
    pytest.importorskip("torch")
    from trainer.corpus.records import read_records
    from trainer.model.config import Conventions
    from trainer.training.recipe import Recipe
    from trainer.training.train import Sources, train

    records = read_records(GOLDEN / "data/FABAInstruct/train/train_anno.json")[:8]
    conventions = Conventions(template="vicuna_v1", image_aspect="pad")
    recipe = Recipe(
        tune="everything",
        learning_rate=4e-3,
        projector_learning_rate=4e-3,
        max_steps=40,
        batch_size=8,
        checkpointing=False,
        workers=0,
    )
    out = tmp_path_factory.mktemp("small") / "checkpoint"
    card = train(Sources(records, conventions, str(GOLDEN / "llava-base"), str(GOLDEN / "clip")), recipe, out)
    assert card["last_losses"][-1] < 1, "the small checkpoint did not learn"
    return out


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, landmark_network) -> Callable:
    """`bundle("trained", "none")`: a sealed bundle of a golden checkpoint, exported once."""
    pytest.importorskip("torch")
    from export.build import export_bundle
    from export.options import ExportOptions

    folder = tmp_path_factory.mktemp("bundles")

    def export(name: str = "trained", quantize: str = "none") -> Path:
        out = folder / f"{name}-{quantize}"
        if not out.exists():
            export_bundle(
                ExportOptions(
                    adapter=str(GOLDEN / f"llava-lora-emola-{name}"),
                    base=str(GOLDEN / "llava-base"),
                    out=out,
                    vision_tower=str(GOLDEN / "clip"),
                    landmark_model=landmark_network,
                    quantize=quantize,
                )
            )
        return out

    return export


@pytest.fixture(scope="session")
def gptq_bundle(tmp_path_factory) -> Path:
    """The golden checkpoint, quantised to 4 bits in groups of 32, with its AutoGPTQ folder."""
    pytest.importorskip("torch")
    from export.build import export_bundle
    from export.options import ExportOptions
    from export.quantise.calibrate import CalibrationSet
    from export.quantise.gptq import GptqOptions

    folder = tmp_path_factory.mktemp("gptq") / "bundle"
    adapter, base, clip = (str(GOLDEN / name) for name in ("llava-lora-emola-trained", "llava-base", "clip"))
    calibrated = {
        "quantize": "gptq",
        "calibration": CalibrationSet(GOLDEN / "data/FABAInstruct/train/train_anno.json", 12),
        "gptq": GptqOptions(4, 32),
    }
    export_bundle(ExportOptions(adapter, base, folder, clip, keep_gptq=True, **calibrated))
    return folder


@pytest.fixture(scope="session")
def triton_kernels():
    """Module `kernels` of the GPTQ backend; Triton's interpreter runs it on the CPU."""
    pytest.importorskip("triton", reason="Triton is not installed; its interpreter checks the GPU kernels")
    from sdk.runtime.backends.gptq_cuda import kernels

    return kernels


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(512, 512, 3) RGB: one smiling face. NASA, public domain."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="session")
def t1() -> np.ndarray:
    """(886, 1280, 3) RGB: six faces; insightface's own test picture."""
    insightface = pytest.importorskip("insightface")
    return np.asarray(Image.open(Path(insightface.__file__).parent / "data/images/t1.jpg").convert("RGB"))
