"""Which training runs and evaluations make which row of a table, as command lines of `emola`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.paper.sources import SOURCES, Source

FABA_TASKS = ("emotion", "au")
RANKS = (8, 32, 128)  # of the ablation of the rank; the paper uses 128


@dataclass(frozen=True)
class Place:
    """Where files are and which options all runs share.

    Attributes:
        data: folder with a folder per data set, named as in `SOURCES`.
        runs: folder of all outputs.
        base, vision_tower: as in `emola train`.
        landmark_network: a network as 2d106det, for data sets without landmark files.
        authors: evaluate as the authors do: another template and crop than in training, and dark landmark input.
        endpoint: address and name of a model behind an endpoint.
        prepare, train, evaluate: further options of these commands.
    """

    data: Path
    runs: Path
    base: str = ""
    vision_tower: str | None = None
    landmark_network: Path | None = None
    authors: bool = False
    endpoint: tuple[str, str] | None = None
    prepare: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()

    @property
    def model(self) -> tuple[str, ...]:
        return ("--base", self.base, *(("--vision-tower", self.vision_tower) if self.vision_tower else ()))


@dataclass(frozen=True)
class Job:
    """A command line of `emola`.

    Attributes:
        words: after `emola`.
        makes: what is there when it is done.
    """

    words: tuple[str, ...]
    makes: Path


@dataclass(frozen=True)
class Evaluation:
    """One evaluation with all that comes before it.

    Attributes:
        dataset: name in scores.
        task: "emotion" or "au".
        data: evaluation file.
        folder: of the answers.
        jobs: from the data set to the answers; an earlier one may be shared with other tests.
        by_person: faces of one person are not independent: intervals are those of drawing other persons.
    """

    dataset: str
    task: str
    data: Path
    folder: Path
    jobs: tuple[Job, ...]
    by_person: bool = False


@dataclass(frozen=True)
class OwnRow:
    """A row of ours: per task the tests of all folds."""

    method: str
    parts: tuple[tuple[Evaluation, ...], ...]

    def jobs(self) -> Iterator[Job]:
        for tests in self.parts:
            for test in tests:
                yield from test.jobs


def faba_row(
    place: Place, method: str, name: str = "", options: tuple[str, ...] = (), *, together: bool = False
) -> OwnRow:
    """EmoLA on FABA-Instruct, trained for each task or, if `together`, once for both.

    Args:
        name: of the variant in the names of folders; empty: the paper's model.
        options: of `emola train` that make the variant.
    """
    prefix = f"{name}-" if name else ""
    parts = []
    for task in FABA_TASKS:
        folder = place.runs / f"{prefix}{'both' if together else task}"
        files = [_faba(place, "train", each) for each in (FABA_TASKS if together else (task,))]
        trained = _training(place, files, folder, options)
        parts.append((_faba_test(place, task, folder, trained),))
    return OwnRow(method, tuple(parts))


def _faba(place: Place, split: str, task: str) -> Path:
    return place.data / "FABAInstruct" / split / f"{split}_{task}_anno.json"


def _faba_test(place: Place, task: str, run: Path, before: tuple[Job, ...] = ()) -> Evaluation:
    data, folder = _faba(place, "eval", task), _answers(place, run, task)
    job = _evaluation(place, "FABA", task, data, folder, (str(run), *place.model))
    return Evaluation("FABA", task, data, folder, (*before, job))


def endpoint_row(place: Place) -> OwnRow:
    """A model behind an endpoint, on FABA-Bench."""
    address, model = place.endpoint or ("", "")
    parts = []
    for task in FABA_TASKS:
        data, folder = _faba(place, "eval", task), place.runs / f"{model.replace('/', '--')}-{task}"
        asked = replace(place, authors=False)  # the endpoint has its own template
        words = ("--endpoint", address, "--model", model)
        parts.append(
            (Evaluation("FABA", task, data, folder, (_evaluation(asked, "FABA", task, data, folder, words),)),)
        )
    return OwnRow(model, tuple(parts))


def classic_row(place: Place, source: Source, folds: tuple[str, ...] = ("",)) -> OwnRow:
    """EmoLA on a classic data set, of all folds."""
    name = source.name.replace("-", "").lower()
    made = place.runs / "data" / f"{name}{'-authors' if place.authors else ''}"
    task = "emotion" if name == "rafdb" else "au"
    prepared = _preparation(place, source, name, made, made / folds[0] / f"train_{task}_anno.json", task)
    tests = []
    for fold in folds:
        train, data = (made / fold / f"{split}_{task}_anno.json" for split in ("train", "eval"))
        run = place.runs / f"{made.name}{fold}"
        folder = _answers(place, run, task)
        words = (str(run), *place.model)
        jobs = (*_training(place, [train], run), _evaluation(place, source.dataset, task, data, folder, words))
        tests.append(Evaluation(source.dataset, task, data, folder, (*prepared, *jobs), by_person=name != "rafdb"))
    return OwnRow("EmoLA", (tuple(tests),))


def _preparation(place: Place, source: Source, name: str, made: Path, train: Path, task: str) -> tuple[Job, ...]:
    """Face crops and landmark files; the folds share them, so that those of one fold are those of all."""
    folder = place.data / source.name
    partition = ("--partition", str(folder / "partition.csv")) if name == "gft" else ()
    crops = ("data", "prepare", name, str(folder), "--out", str(made), *partition, *place.prepare)
    mode = ("--mode", "emola") if place.authors else ()
    files = (str(train), str(train.with_name(f"eval_{task}_anno.json")))
    landmarks = ("data", "landmarks", *files, "--network", str(place.landmark_network), *mode)
    return Job(crops, train), Job(landmarks, made / "landmarks" / "about.json")


def _training(place: Place, files: list[Path], folder: Path, options: tuple[str, ...] = ()) -> tuple[Job, ...]:
    data = tuple(word for path in files for word in ("--data", str(path)))
    words = ("train", *place.model, *data, "--output", str(folder), *options, *place.train)
    return (Job(words, folder / "emola.json"),)


def _answers(place: Place, run: Path, task: str) -> Path:
    return run / f"{'authors' if place.authors else 'eval'}-{task}"


def _evaluation(place: Place, dataset: str, task: str, data: Path, folder: Path, model: tuple[str, ...]) -> Job:
    words = ("evaluate", *model, "--task", task, "--dataset", dataset, "--data", str(data), "--output", str(folder))
    return Job((*words, *place.evaluate), folder / "scores.json")


@dataclass(frozen=True)
class Study:
    """A table of the paper or an ablation of its text.

    Attributes:
        name: "3" to "9", or a word.
        title: for an ablation; a table of the paper has its own.
        source: the data set.
        rows: from the place of the files to our rows.
    """

    name: str
    title: str
    source: Source
    rows: Callable[[Place], list[OwnRow]]


_FOLDS = ("fold1", "fold2", "fold3")
_FABA_SOURCE = SOURCES["FABAInstruct"]


def _benchmark(place: Place) -> list[OwnRow]:
    return [faba_row(place, "EmoLA"), *([endpoint_row(place)] if place.endpoint else [])]


def _tokens(place: Place) -> list[OwnRow]:
    return [
        faba_row(place, "H_p", "prior", ("--tokens", "prior")),
        faba_row(place, "H_v", "visual", ("--tokens", "visual")),
        faba_row(place, "H_v and H_p"),
    ]


def _tuning(place: Place) -> list[OwnRow]:
    return [
        faba_row(place, "g_theta", "landmark", ("--tune", "landmark")),
        faba_row(place, "h_phi and h_gamma", "lora", ("--tune", "lora")),
        faba_row(place, "all three"),
    ]


def _ranks(place: Place) -> list[OwnRow]:
    """The rank with alpha at twice the rank, as the authors have it."""
    rows = [
        faba_row(place, f"rank {rank}", f"rank{rank}", ("--rank", str(rank), "--alpha", str(2 * rank)))
        for rank in RANKS[:-1]
    ]
    return [*rows, faba_row(place, f"rank {RANKS[-1]}")]


def _tasks(place: Place) -> list[OwnRow]:
    return [faba_row(place, "one model per task"), faba_row(place, "one model for both tasks", together=True)]


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("3", "", SOURCES["RAF-DB"], lambda place: [classic_row(place, SOURCES["RAF-DB"])]),
        Study("4", "", SOURCES["DISFA"], lambda place: [classic_row(place, SOURCES["DISFA"], _FOLDS)]),
        Study("5", "", SOURCES["BP4D"], lambda place: [classic_row(place, SOURCES["BP4D"], _FOLDS)]),
        Study("6", "", SOURCES["GFT"], lambda place: [classic_row(place, SOURCES["GFT"])]),
        Study("7", "", _FABA_SOURCE, _benchmark),
        Study("8", "", _FABA_SOURCE, _tokens),
        Study("9", "", _FABA_SOURCE, _tuning),
        Study("rank", "Rank of LoRA, FABA-Bench, in %", _FABA_SOURCE, _ranks),
        Study("tasks", "One task or both in training, FABA-Bench, in %", _FABA_SOURCE, _tasks),
    )
}
