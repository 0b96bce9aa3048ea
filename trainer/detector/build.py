"""`emola pretrain-detector`: heads, scenes, network. Heads and scenes are kept; a training starts again."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sdk import __version__
from sdk.errors import DataError
from sdk.files import claim_folder, replacing, write_json
from sdk.locks import writing_into
from sdk.progress import Step
from trainer.detector.batches import Scenes
from trainer.detector.heads import Head, HeadRenderer, HeadSet
from trainer.detector.recipe import DetectorRecipe
from trainer.detector.scenes import Scene, SceneComposer
from trainer.detector.surroundings import read_surroundings
from trainer.detector.train import WINDOWS, train_detector, write_detector
from trainer.processes import in_processes
from trainer.synthetic.face_model import read_face_model

SHARD = 250  # heads or scenes in one folder
_ABOUT, _CARD, _NETWORK = "about.json", "training.json", "detector.onnx"

Made = TypeVar("Made")


def build_detector(out: Path, recipe: DetectorRecipe, report: Callable[[str], None] = lambda line: None) -> Path:
    """Make `detector.onnx` in a folder; heads and scenes are kept beside it.

    Args:
        out: a new folder, or one with the same recipe.
        report: told how far each stage is.

    Raises:
        DataError: the folder was begun with another recipe, or a model or a picture cannot be read.
        TrainingError: one of the processes was ended from outside.
    """
    least = WINDOWS * recipe.batch_size
    if recipe.scenes < least or recipe.heads < 1:
        raise DataError(f"at least 1 head and {least} scenes are needed, a batch of windows")
    read_surroundings(recipe.pictures)  # an error comes before anything is written
    about = _about(recipe)
    with writing_into(out):
        claim_folder(out / _ABOUT, about, "detector run", DataError)
        if not (out / _NETWORK).exists():
            _build(out, recipe, report)
    return out / _NETWORK


def _about(recipe: DetectorRecipe) -> dict[str, Any]:
    """What decides the content of the folder."""
    kept = ("heads", "scenes", "empty", "steps", "batch_size", "learning_rate", "weight_decay", "seed")
    pictures = sorted(path.relative_to(recipe.pictures).as_posix() for path in recipe.pictures.rglob("*.*"))
    head = read_face_model(recipe.face_model).digest()
    return {
        **{name: getattr(recipe, name) for name in kept},
        "version": __version__,
        "head": head,
        "pictures": pictures,
    }


def _build(out: Path, recipe: DetectorRecipe, report: Callable[[str], None]) -> None:
    renderer = partial(HeadRenderer, recipe.face_model, recipe.seed)
    _make(out / "heads", recipe.heads, renderer, _write_heads, recipe.processes, partial(_report, report, "heads"))
    for name, count, empty in (("scenes", recipe.scenes, False), ("empty", recipe.empty, True)):
        composer = partial(_open_composer, out / "heads", recipe, empty)
        _make(out / name, count, composer, _write_scenes, recipe.processes, partial(_report, report, name))
    losses: list[dict[str, Any]] = []

    def log(row: dict[str, Any]) -> None:
        losses.append(row)
        line = f"detector: step {row['step']} of {row['of']}, loss {row['loss']:.3f}, {row['seconds']:.0f} s"
        report(Step(line, row["step"], row["of"], "detector"))

    network = train_detector(_read_scenes(out / "scenes"), _read_scenes(out / "empty"), recipe, log)
    write_json(out / _CARD, {"losses": losses})
    write_detector(network, out / _NETWORK)


def _report(report: Callable[[str], None], what: str, done: int, total: int) -> None:
    report(Step(f"{what}: {done} of {total}", done, total, what))


def _make(
    folder: Path,
    count: int,
    open_worker: Callable[[], Callable[[int], Made]],
    write: Callable[[Path, list[Made]], None],
    processes: int,
    report: Callable[[int, int], None],
) -> None:
    """Make what is missing of `count` things, in shards."""
    folder.mkdir(exist_ok=True)
    shards = [range(begin, min(begin + SHARD, count)) for begin in range(0, count, SHARD)]
    missing = [shard for shard in shards if not _shard(folder, shard.start).exists()]
    made = in_processes(open_worker, (index for shard in missing for index in shard), processes)
    for shard in missing:
        things = [thing for _, thing in zip(shard, made, strict=False)]
        with replacing(_shard(folder, shard.start), folder=True) as partial_folder:
            write(partial_folder, things)
        report(shard.stop, count)


def _shard(folder: Path, begin: int) -> Path:
    return folder / f"{begin:06d}"


def _write_heads(folder: Path, heads: list[Head]) -> None:
    np.save(folder / "pixels.npy", np.stack([head.pixels for head in heads]))
    rows = [[*head.box, *head.points.ravel(), head.yaw] for head in heads]
    np.save(folder / "labels.npy", np.array(rows, np.float32))


def _write_scenes(folder: Path, scenes: list[Scene]) -> None:
    np.save(folder / "pixels.npy", np.stack([scene.pixels for scene in scenes]))
    np.save(folder / "labels.npy", np.concatenate([scene.labels for scene in scenes]))
    np.save(folder / "counts.npy", np.array([len(scene.labels) for scene in scenes]))


def _arrays(folder: Path, name: str) -> Iterator["np.ndarray[Any, Any]"]:
    for shard in sorted(folder.glob("[0-9]" * 6)):
        yield np.load(shard / f"{name}.npy", mmap_mode="r" if name == "pixels" else None)


def _open_composer(heads: Path, recipe: DetectorRecipe, empty: bool) -> SceneComposer:
    rows = np.concatenate([*_arrays(heads, "labels")])
    pixels = [*_arrays(heads, "pixels")]
    found = HeadSet(pixels, rows[:, :3], rows[:, 3:13].reshape(-1, 5, 2), rows[:, 13])
    return SceneComposer(found, recipe.pictures, recipe.seed, empty=empty)


def _read_scenes(folder: Path) -> Scenes:
    labels: list[Any] = []
    for rows, counts in zip(_arrays(folder, "labels"), _arrays(folder, "counts"), strict=True):
        labels += np.split(rows, np.cumsum(counts)[:-1])
    return Scenes([*_arrays(folder, "pixels")], labels)
