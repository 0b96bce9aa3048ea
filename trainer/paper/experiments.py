"""Which training runs and evaluations make which row of a table, as command lines of `emola`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.paper.sources import SOURCES, Source

FABA_TASKS = ("emotion", "au")
AUTHORS = ("--template", "llava_v1", "--image-aspect", "crop")  # their evaluation, with an endpoint the server decides
MODELS = ("emola", "llava", "llava-tuned")  # rows of Table 7 that are run here
LLAVA_RATE = "2e-5"  # of LLaVA's own fine-tuning of the whole decoder
RANKS = (8, 32, 128)  # of the ablation of the rank; the paper uses 128


@dataclass(frozen=True)
class Place:
    """Where files are and which options all runs share.

    Attributes:
        data: folder with a folder per data set, named as in `SOURCES`.
        runs: folder of all outputs.
        base, vision_tower: as in `emola train`.
        landmark_network: a network as 2d106det or a pack of insightface, for data sets without landmark files.
        authors: evaluate as the authors do: another template and crop than in training, and dark landmark input.
        models: those of `MODELS` that Table 7 compares.
        endpoint: address and name of a model behind an endpoint.
        prepare, landmarks, train, evaluate: further options of these commands.
    """

    data: Path
    runs: Path
    base: str = ""
    vision_tower: str | None = None
    landmark_network: Path = Path("2d106det.onnx")
    authors: bool = False
    models: tuple[str, ...] = MODELS[:1]
    endpoint: tuple[str, str] | None = None
    prepare: tuple[str, ...] = ()
    landmarks: tuple[str, ...] = ()
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
        model = (str(folder), *place.model)
        parts.append((_asked(place, task, _answers(place, folder, task), model, trained),))
    return OwnRow(method, tuple(parts))


def _faba(place: Place, split: str, task: str) -> Path:
    return place.data / "FABAInstruct" / split / f"{split}_{task}_anno.json"


def _asked(place: Place, task: str, folder: Path, model: tuple[str, ...], before: tuple[Job, ...] = ()) -> Evaluation:
    """The evaluation of a model on FABA-Bench."""
    data = _faba(place, "eval", task)
    return Evaluation("FABA", task, data, folder, (*before, _evaluation(place, "FABA", task, data, folder, model)))


def llava_row(place: Place) -> OwnRow:
    """LLaVA-1.5 as it is released, without any training."""
    parts = []
    for task in FABA_TASKS:
        words = (place.base, *place.model[2:])
        parts.append((_asked(place, task, _answers(place, place.runs / f"llava-{task}", task), words),))
    return OwnRow("LLaVA-1.5, not trained", tuple(parts))


def tuned_llava_row(place: Place) -> OwnRow:
    """LLaVA-1.5 with its decoder and projector trained for each task, without prior and with CLIP frozen."""
    options = ("--tune", "decoder", "--tokens", "visual", "--learning-rate", LLAVA_RATE)
    parts = []
    for task in FABA_TASKS:
        run = place.runs / f"llava-tuned-{task}"
        trained = _training(place, [_faba(place, "train", task)], run, options)
        parts.append((_asked(place, task, _answers(place, run, task), (str(run),), trained),))
    return OwnRow("LLaVA-1.5, trained", tuple(parts))


def endpoint_row(place: Place, address: str, model: str) -> OwnRow:
    """A model behind an endpoint, on FABA-Bench."""
    parts = []
    for task in FABA_TASKS:
        folder = place.runs / f"{model.replace('/', '--')}-{task}"
        parts.append((_asked(place, task, folder, ("--endpoint", address, "--model", model)),))
    return OwnRow(model, tuple(parts))


def classic_row(
    place: Place,
    source: Source,
    folds: tuple[str, ...] = ("",),
    *,
    method: str = "EmoLA",
    dark: bool | None = None,
    variant: str = "",
    options: tuple[str, ...] = (),
) -> OwnRow:
    """EmoLA on a classic data set, of all folds.

    Args:
        dark: whether landmark files are those of the dark input of the released data; None: as `place` says.
        variant: end of the names of the runs.
        options: of `emola train` that make the variant.
    """
    dark = place.authors if dark is None else dark
    made = place.runs / "data" / f"{source.word}{'-authors' if dark else ''}"
    task = "emotion" if source.word == "rafdb" else "au"
    prepared = _preparation(place, source, made, made / folds[0] / f"train_{task}_anno.json", dark)
    tests = []
    for fold in folds:
        train, data = (made / fold / f"{split}_{task}_anno.json" for split in ("train", "eval"))
        run = place.runs / f"{made.name}{fold}{variant}"
        folder = _answers(place, run, task)
        words = (str(run), *place.model)
        jobs = (*_training(place, [train], run, options), _evaluation(place, source.dataset, task, data, folder, words))
        tests.append(Evaluation(source.dataset, task, data, folder, (*prepared, *jobs), by_person=task == "au"))
    return OwnRow(method, (tuple(tests),))


def _preparation(place: Place, source: Source, made: Path, train: Path, dark: bool) -> tuple[Job, ...]:
    """Face crops and landmark files; the folds share them, so that those of one fold are those of all."""
    folder, name = place.data / source.name, source.word
    partition = ("--partition", str(folder / "partition.csv")) if name == "gft" else ()
    align = () if name == "rafdb" else ("--align", str(place.landmark_network))  # the pictures of RAF-DB are aligned
    crops = ("data", "prepare", name, str(folder), "--out", str(made), *partition, *align, *place.prepare)
    mode = ("--mode", "emola") if dark else ()
    files = (str(train), str(train.with_name(train.name.replace("train", "eval", 1))))
    features = ("data", "landmarks", *files, "--network", str(place.landmark_network), *mode, *place.landmarks)
    return Job(crops, train), Job(features, made / "landmarks" / "about.json")


def _training(place: Place, files: list[Path], folder: Path, options: tuple[str, ...] = ()) -> tuple[Job, ...]:
    data = tuple(word for path in files for word in ("--data", str(path)))
    words = ("train", *place.model, *data, "--output", str(folder), *options, *place.train)
    return (Job(words, folder / "emola.json"),)


def _answers(place: Place, run: Path, task: str) -> Path:
    return run / f"{'authors' if place.authors else 'eval'}-{task}"


def _evaluation(place: Place, dataset: str, task: str, data: Path, folder: Path, model: tuple[str, ...]) -> Job:
    words = ("evaluate", *model, "--task", task, "--dataset", dataset, "--data", str(data), "--output", str(folder))
    convention = AUTHORS if place.authors and "--endpoint" not in model else ()
    return Job((*words, *convention, *place.evaluate), folder / "scores.json")


@dataclass(frozen=True)
class Study:
    """A table of the paper or an ablation of its text.

    Attributes:
        name: "3" to "9", or a word.
        title: for an ablation; a table of the paper has its own.
        source: the data set.
        rows: from the place of the files to our rows.
        note: what the paper says about an ablation.
    """

    name: str
    title: str
    source: Source
    rows: Callable[[Place], list[OwnRow]]
    note: str = "The paper has this ablation in its appendix and states no figures in the text."


_FUTURE = "The paper names other priors as future work."
_ONE_RANK = "The paper trains with rank 128 and states no figures of other ranks in its text."
_FOLDS = ("fold1", "fold2", "fold3")
_FABA_SOURCE = SOURCES["FABAInstruct"]


def _benchmark(place: Place) -> list[OwnRow]:
    made = {"emola": lambda place: faba_row(place, "EmoLA"), "llava": llava_row, "llava-tuned": tuned_llava_row}
    rows = [made[name](place) for name in place.models]
    return [*rows, endpoint_row(place, *place.endpoint)] if place.endpoint else rows


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


def _positions(place: Place) -> list[OwnRow]:
    before = faba_row(place, "prior before the picture", "before", ("--prior-position", "before"))
    return [before, faba_row(place, "prior after the picture")]


def _ranks(place: Place) -> list[OwnRow]:
    """The rank with alpha at twice the rank, as the authors have it."""
    rows = [
        faba_row(place, f"rank {rank}", f"rank{rank}", ("--rank", str(rank), "--alpha", str(2 * rank)))
        for rank in RANKS[:-1]
    ]
    return [*rows, faba_row(place, f"rank {RANKS[-1]}")]


def _priors(place: Place) -> list[OwnRow]:
    raf, geometry = SOURCES["RAF-DB"], ("--prior", "geometry")
    return [
        classic_row(place, raf, method="landmarks, dark input of the released data", dark=True),
        classic_row(place, raf, method="landmarks, input of insightface", dark=False),
        classic_row(place, raf, method="landmark geometry", dark=False, variant="-geometry", options=geometry),
        classic_row(place, raf, method="no prior", dark=False, variant="-visual", options=("--tokens", "visual")),
    ]


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
        Study("position", "Position of the prior token, FABA-Bench, in %", _FABA_SOURCE, _positions),
        Study("rank", "Rank of LoRA, FABA-Bench, in %", _FABA_SOURCE, _ranks, _ONE_RANK),
        Study("prior", "Facial prior, RAF-DB, in %", SOURCES["RAF-DB"], _priors, _FUTURE),
        Study("tasks", "One task or both in training, FABA-Bench, in %", _FABA_SOURCE, _tasks),
    )
}
