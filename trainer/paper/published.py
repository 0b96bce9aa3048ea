"""Tables 3 to 9 of the paper (Li et al. 2024) as it prints them, with the source of each row."""

from collections.abc import Iterator
from dataclasses import dataclass

from sdk.faba.vocabulary import DATASETS

SOURCE = "Li et al., Facial Affective Behavior Analysis with Instruction Tuning, ECCV 2024, arXiv 2404.05052"


@dataclass(frozen=True)
class PublishedRow:
    """A row: the name of the method, where its figures were first published, and a figure per column, None if empty."""

    method: str
    reference: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
        number: "3" to "9".
        title: what is compared.
        note: what the paper says about the origin of the figures.
        columns: names of the figures.
        main: names of the columns that summarise a row.
        rows: in the order of the paper.
    """

    number: str
    title: str
    note: str
    columns: tuple[str, ...]
    main: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


# Number in the paper's list of references -> first author and place.
_REFERENCES = {
    9: "Chen et al., arXiv 2310.09478",
    10: "Chen et al., arXiv 2306.15195",
    17: "Corneanu et al., ECCV 2018",
    35: "He et al., CVPR 2020",
    40: "Jacob and Stenger, CVPR 2021",
    49: "Li et al., AAAI 2019",
    55: "Li et al., IEEE TPAMI 2018",
    59: "Li et al., BMVC 2023",
    63: "Li et al., CVPR 2019",
    68: "Liu et al., arXiv 2310.03744",
    75: "Lu et al., BMVC 2020",
    77: "Luo et al., arXiv 2205.01782",
    79: "Mao et al., arXiv 2301.12149",
    85: "Niu et al., CVPR 2019",
    94: "Sankaran et al., IEEE FG 2019",
    96: "Shao et al., IJCV 2021",
    97: "Shao et al., IEEE TAC 2019",
    100: "Song et al., CVPR 2021",
    103: "Sun et al., FG 2021",
    106: "Tang et al., ICCV 2021",
    109: "Wang et al., IEEE TIP 2020",
    115: "Wen et al., Biomimetics 2023",
    121: "Xue et al., IEEE TAC 2022",
    123: "Yang et al., CVPR 2021",
    124: "Ye et al., arXiv 2311.04257",
    136: "Zhang et al., NeurIPS 2021",
    137: "Zhang et al., ECCV 2022",
    140: "Zhao et al., CVPR 2016",
    142: "Zhao et al., IEEE TIP 2021",
    143: "Zhao et al., AAAI 2021",
}

# A row is: method | number in the list of references, 0 for the paper itself | figures, "-" where there is none.
_RAFDB = """
RAN | 109 | 86.9
MA-Net | 142 | 87.22
EfficientFace | 143 | 88.36
RUL | 136 | 88.98
DAN | 115 | 89.70
EAC | 137 | 90.35
APViT | 121 | 91.98
POSTER | 79 | 92.05
EmoLA | 0 | 92.05
"""
_DISFA = """
DRML | 140 | 17.3 17.7 37.4 29.0 10.7 37.7 38.5 20.1 26.7
EAC-Net | 55 | 41.5 26.4 66.4 50.7 80.5 89.3 88.9 15.6 48.5
DSIN | 17 | 42.4 39.0 68.1 28.6 46.8 70.8 90.4 42.2 53.6
SRERL | 49 | 45.7 47.8 59.6 47.1 45.6 73.5 84.3 43.6 55.9
LP-Net | 85 | 29.9 24.7 72.7 46.8 49.6 72.9 93.8 65.0 56.9
CMS | 94 | 40.2 44.3 53.2 57.1 50.3 73.5 81.1 59.7 57.4
ARL | 97 | 43.9 42.1 63.6 41.8 40.0 76.2 95.2 66.8 58.7
SEV-Net | 123 | 55.3 53.1 61.5 53.6 38.2 71.6 95.7 41.5 58.8
HMP-PS | 100 | 38.0 45.9 65.2 50.9 50.8 76.0 93.3 67.6 61.0
ATCM | 40 | 46.1 48.6 72.8 56.7 50.0 72.1 90.8 55.4 61.5
ReCoT | 59 | 51.3 36.2 66.8 50.1 52.4 78.8 95.3 69.7 62.6
JAA-Net | 96 | 62.4 60.7 67.1 41.1 45.1 73.5 90.9 67.4 63.5
PIAP | 106 | 50.2 51.8 71.9 50.6 54.5 79.7 94.1 57.2 63.8
GraphAU (R-50) | 77 | 54.6 47.1 72.9 54.0 55.7 76.7 91.1 53.0 63.1
EmoLA | 0 | 50.5 56.9 83.5 55.2 43.1 80.1 91.6 60.0 65.1
"""
_BP4D = """
DRML | 140 | 36.4 41.8 43.0 55.0 67.0 66.3 65.8 54.1 33.2 48.0 31.7 30.0 48.3
EAC-Net | 55 | 39.0 35.2 48.6 76.1 72.9 81.9 86.2 58.8 37.5 59.1 35.9 35.8 55.9
DSIN | 17 | 51.7 40.4 56.0 76.1 73.5 79.9 85.4 62.7 37.3 62.9 38.8 41.6 58.9
CMS | 94 | 49.1 44.1 50.3 79.2 74.7 80.9 88.3 63.9 44.4 60.3 41.4 51.2 60.6
LP-Net | 49 | 43.4 38.0 54.2 77.1 76.7 83.8 87.2 63.3 45.3 60.5 48.1 54.2 61.0
ARL | 97 | 45.8 39.8 55.1 75.7 77.2 82.3 86.6 58.8 47.6 62.1 47.4 55.4 61.1
JAA-Net | 96 | 47.2 41.6 49.1 77.2 77.5 82.9 85.8 63.4 50.8 62.5 47.2 52.7 61.5
SRERL | 49 | 46.9 45.3 55.6 77.1 78.4 83.5 87.6 60.6 52.2 63.9 47.1 53.3 62.9
HMP-PS | 100 | 53.1 46.1 56.0 76.5 76.9 82.1 86.4 64.8 51.5 63.0 49.9 54.5 63.4
SEV-Net | 123 | 58.2 50.4 58.3 81.9 73.9 87.8 87.5 61.6 52.6 62.2 44.6 47.6 63.9
PIAP | 106 | 54.2 47.1 54.0 79.0 78.2 86.3 89.5 66.1 49.7 63.2 49.9 52.0 64.1
ATCM | 40 | 51.7 49.3 61.0 77.8 79.5 82.9 86.3 67.6 51.9 63.0 43.7 56.3 64.2
GraphAU (R-50) | 77 | 53.7 46.9 59.0 78.5 80.0 84.4 87.8 67.3 52.5 63.2 50.6 52.4 64.7
ReCoT | 59 | 51.5 47.8 58.9 79.2 80.2 84.9 88.4 61.6 53.3 64.6 51.8 55.4 64.8
EmoLA | 0 | 57.4 52.4 61.0 78.1 77.8 81.9 89.5 60.5 49.3 64.9 46.0 52.4 64.2
"""
_GFT = """
EACNet | 55 | 15.5 56.6 0.1 81.0 76.1 84.0 0.1 38.5 57.8 51.2 46.1
TCAE | 63 | 43.9 49.5 6.3 71.0 76.2 79.5 10.7 28.5 34.5 41.7 44.2
ARL | 97 | 51.9 45.9 13.7 79.2 75.5 82.8 0.1 44.9 59.2 47.5 50.1
MoCo (ft) | 35 | 45.3 48.2 20.3 80.7 78.8 78.1 22.6 46.0 53.9 50.3 52.4
Temporal Ranking (ft) | 75 | 58.8 56.8 33.2 72.5 76.2 80.8 19.9 46.8 55.2 47.3 54.7
JAA-Net | 96 | 46.5 49.3 19.2 79.0 75.0 84.8 44.1 33.5 54.9 50.7 53.7
EmoCo | 103 | 65.9 55.9 40.7 83.1 75.1 81.4 21.3 48.5 58.0 56.5 58.6
EmoLA | 0 | 69.8 59.1 52.8 85.3 73.0 85.3 32.3 47.6 63.1 52.2 62.1
"""
_FABA = """
MiniGPT4-v2 | 9 | 58.2 19.6 77.8 47.9 35.5 42.3 32.7 29.2 6.6 10.3 0.0 2.5 0.1 0.0 0.0 17.9 19.9 37.8
mPLUG-Owl2 | 124 | 53.6 28.4 82.0 72.3 17.5 75.2 54.2 75.6 0.0 13.0 0.0 0.0 3.9 18.2 0.0 27.5 28.2 55.7
Shikra | 10 | 62.5 32.1 94.6 70.6 33.9 76.6 63.3 57.8 43.4 58.0 53.0 54.1 68.5 42.4 0.0 51.8 34.8 86.6
LLaVA-1.5 | 68 | 62.3 31.6 93.9 74.2 32.7 76.5 67.9 63.6 41.0 61.0 53.4 54.1 67.5 43.5 50.0 57.1 34.3 91.4
EmoLA | 0 | 64.5 31.7 96.2 72.8 37.3 79.9 67.3 69.9 41.7 63.6 56.8 55.6 73.4 56.8 0.0 56.3 35.2 91.5
"""
_TOKENS = """
H_p (prior token alone) | 0 | 41.2 29.9 40.5 33.7
H_v (visual tokens alone) | 0 | 62.5 32.1 55.3 34.8
H_v and H_p | 0 | 64.5 31.7 56.3 35.2
"""
_TUNING = """
g_theta (prior projector alone) | 0 | 44.9 29.6 47.7 34.0
h_phi and h_gamma (LoRA and visual projector) | 0 | 63.0 32.1 55.6 34.9
all three | 0 | 64.5 31.7 56.3 35.2
"""

FIGURES = ("S_re", "S_ge", "S_rege")
SHORT = tuple(f"{task} {name}" for task in ("Emotion", "AU") for name in FIGURES[:2])


def _table(
    number: str, title: str, note: str, columns: tuple[str, ...], main: tuple[str, ...], rows: str
) -> PublishedTable:
    return PublishedTable(number, title, note, columns, main, tuple(_rows(rows)))


def _rows(text: str) -> Iterator[PublishedRow]:
    for line in text.strip().splitlines():
        method, number, figures = (part.strip() for part in line.split("|"))
        reference = f"[{number}] {_REFERENCES[int(number)]}" if int(number) else "the paper"
        values = tuple(None if word == "-" else float(word) for word in figures.split())
        yield PublishedRow(method, reference, values)


def units(dataset: str) -> tuple[str, ...]:
    """The columns of the scored action units of a data set."""
    return tuple(f"AU{code}" for code in DATASETS[dataset].scored)


_COPIED = "The paper takes all rows but its own from the papers named"
_FABA_COLUMNS = tuple(f"Emotion {name}" for name in FIGURES), tuple(f"AU {name}" for name in FIGURES)

TABLES: dict[str, PublishedTable] = {
    table.number: table
    for table in (
        _table("3", "RAF-DB, accuracy in %", f"{_COPIED}.", ("Accuracy",), ("Accuracy",), _RAFDB),
        _table("4", "DISFA, F1 in %", f"{_COPIED}.", (*units("DISFA"), "Avg."), ("Avg.",), _DISFA),
        _table(
            "5",
            "BP4D, F1 in %",
            f"{_COPIED}; JAA-Net and ReCoT from [59]. It prints [49] for LP-Net here and [85] in Table 4.",
            (*units("BP4D"), "Avg."),
            ("Avg.",),
            _BP4D,
        ),
        _table(
            "6",
            "GFT, F1 in %",
            f"{_COPIED}; MoCo and Temporal Ranking, which were fine-tuned (ft), from [103].",
            (*units("GFT"), "Avg."),
            ("Avg.",),
            _GFT,
        ),
        _table(
            "7",
            "FABA-Bench, in %",
            "The authors trained all baselines themselves with the code of the papers named.",
            (*_FABA_COLUMNS[0], *units("FABA"), *_FABA_COLUMNS[1]),
            (_FABA_COLUMNS[0][2], _FABA_COLUMNS[1][2]),
            _FABA,
        ),
        _table("8", "Tokens that the decoder reads, FABA-Bench, in %", "Runs of the authors.", SHORT, SHORT, _TOKENS),
        _table("9", "Parts that are tuned, FABA-Bench, in %", "Runs of the authors.", SHORT, SHORT, _TUNING),
    )
}
