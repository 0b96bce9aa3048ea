"""The runs that `kills.py` ends: small, on real files, through the command line."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden"
EMBEDDED = ROOT / "sdk/assets/emola-nano"
PHOTO = ROOT / "sdk/assets/pictures/astronaut.jpg"
CHECKPOINT = ("--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip"))
ADAPTER = str(GOLDEN / "llava-lora-emola-trained")
TRAIN = GOLDEN / "data/FABAInstruct/train/train_anno.json"
_SMALL = ("--rank", "8", "--alpha", "16", "--precision", "float32", "--workers", "0", "--max-steps", "8")

sys.path.append(str(ROOT / "tests"))  # its servers and made-up models


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        arguments: of `emola`, from the output folder and the folder of the inputs.
        prepare: put what the command changes into the output folder.
        server: what must run meanwhile; yields environment variables.
    """

    name: str
    arguments: Callable[[Path, Path], tuple[str | Path, ...]]
    prepare: Callable[[Path, Path], None] = lambda out, inputs: None
    server: Callable[[Path], Any] = lambda inputs: nullcontext({})

    def command(self, out: Path, inputs: Path) -> list[str]:
        return [sys.executable, "-m", "sdk", *map(str, self.arguments(out, inputs))]


def prepare_inputs(inputs: Path) -> None:
    """Make the inputs that the repository does not hold: a head, a landmark network, pictures, a clip, answers."""
    from clips import write_clip
    from landmark_network import write_landmark_network
    from made_up_head import write_head
    from PIL import Image

    from sdk.faces.images import load_image

    if (inputs / "complete").exists():
        return
    shutil.rmtree(inputs, ignore_errors=True)
    (inputs / "pictures").mkdir(parents=True)
    write_head(inputs / "head.npz")
    write_landmark_network(inputs / "landmark.onnx")
    photo = Image.fromarray(load_image(PHOTO)).resize((256, 256))
    for index in range(24):
        photo.rotate(index - 12).save(inputs / f"pictures/{index:02}.png")
    frames = [load_image(inputs / f"pictures/{index:02}.png") for index in range(24)]
    write_clip(inputs / "clip.mp4", frames)
    rows = [{**row, "gpt4": "The person is sad.", "label": 1} for row in json.loads(TRAIN.read_text())]
    for row in rows:
        del row["conversations"]
        row |= {key: str(GOLDEN / "data" / row[key]) for key in ("image", "landmark")}
    (inputs / "answers.json").write_text(json.dumps(rows))
    (inputs / "complete").touch()


def _data_set(out: Path, inputs: Path) -> None:
    """The golden training set forty times, without landmark files."""
    rows, source = json.loads(TRAIN.read_text()), GOLDEN / "data"
    (out / "images").mkdir()
    found = []
    for copy in range(40):
        for index, row in enumerate(rows):
            image = f"images/{copy}-{index}.png"
            shutil.copy(source / row["image"], out / image)
            found.append({**row, "id": image, "image": image, "landmark": f"landmarks/{copy}-{index}.npy"})
    (out / "anno.json").write_text(json.dumps(found))


@contextmanager
def _hub(inputs: Path) -> Iterator[dict[str, str]]:
    from hub_server import HubServer

    with HubServer(EMBEDDED) as server:
        yield {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def _export(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    network = ("--landmark-model", inputs / "landmark.onnx")
    return "export", ADAPTER, out / "bundle", *CHECKPOINT, *network, "--quantize", "none"


def _gptq(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    calibration = ("--calibration", TRAIN, "-n", "12", "--group-size", "32")
    return "export", ADAPTER, out / "bundle", *CHECKPOINT, "--quantize", "gptq", *calibration


def _train(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    return "train", *CHECKPOINT, "--data", TRAIN, "--output", out / "adapter", *_SMALL, "--save-steps", "2"


def _evaluate(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    data = ("--data", inputs / "answers.json", "--task", "emotion")
    return "evaluate", EMBEDDED, *data, "--output", out / "scores", "--batch-size", "1"


def _synthesize(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    return "data", "synthesize", out / "faces", "-n", "24", "--face-model", inputs / "head.npz", "--processes", "2"


def _landmarks(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    network = ("--network", inputs / "landmark.onnx", "--root", out)
    return "data", "landmarks", out / "anno.json", *network, "--batch-size", "4", "--threads", "1"


def _batch(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    files = ("--save", out / "drawn", "--csv", out / "table.csv")
    return "analyze", inputs / "pictures", "--faces", "aligned", "--max-tokens", "24", *files


def _video(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    files = ("--jsonl", out / "a.jsonl", "--csv", out / "a.csv", "--save", out / "a.mp4", "--timeline", out / "a.png")
    return "video", inputs / "clip.mp4", "--max-tokens", "24", *files


def _download(out: Path, inputs: Path) -> tuple[str | Path, ...]:
    return "info", "owner/name", "--json"


_ALL = (
    Job("export", _export),
    Job("gptq", _gptq),
    Job("train", _train),
    Job("evaluate", _evaluate),
    Job("synthesize", _synthesize),
    Job("landmarks", _landmarks, _data_set),
    Job("batch", _batch),
    Job("video", _video),
    Job("download", _download, server=_hub),
)
JOBS = {job.name: job for job in _ALL}
