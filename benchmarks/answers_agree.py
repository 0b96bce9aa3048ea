"""Count contradictions between the two answers about a face, and words that no training answer has.

    python benchmarks/answers_agree.py PICTURES [--aligned] [--limit 300] [--bundle BUNDLE]

PICTURES is a folder of photographs or, with --aligned, of face crops, such as `images` of `emola data synthesize`.

A description contradicts the action units if it names a movement that they lack, calls the face at rest beside units,
speaks of a smile without AU12, or denies a smile, a frown or raised cheeks that they have. The patterns of this script
decide that, not the runtime. Intervals are 95 % of a bootstrap over the faces.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sdk import Analyzer
from sdk.batch import pictures_in
from sdk.records import Face
from sdk.runtime.language import Evidence, Grammar
from trainer.synthetic.describe import answer_language, describe_emotion, describe_units
from trainer.synthetic.expression import draw_emotion, draw_units

LANGUAGE = answer_language()
DRAWS = 2000  # expressions whose texts give the words of the training answers
RESAMPLES = 2000
Indices: TypeAlias = npt.NDArray[np.int64]
_DEGREE = r"(?: slightly| clearly| strongly)?"
MOVEMENTS: dict[int, str] = {  # how a description mentions each unit
    1: f"inner brows are{_DEGREE} raised|raised inner brows",
    2: f"outer brows are{_DEGREE} lifted",
    4: f"brows are{_DEGREE} lowered|lowered brows",
    5: f"eyes are{_DEGREE} opened wide|wide eyes",
    6: f"cheeks are{_DEGREE} raised|cheeks take part",
    7: f"eyelids are{_DEGREE} tightened|tense lids",
    9: f"nose is{_DEGREE} wrinkled|wrinkled nose",
    10: f"upper lip is{_DEGREE} raised|raised upper lip",
    12: "smile(?!d)",
    14: f"mouth are{_DEGREE} dimpled",
    15: f"mouth are{_DEGREE} turned down|downturned mouth|drooping mouth",
    16: f"lower lip is{_DEGREE} pulled down",
    17: f"chin is{_DEGREE} pushed up",
    20: "stretched sideways|stretched mouth",
    23: f"lips are{_DEGREE} tightened",
    24: f"lips are{_DEGREE} pressed together",
    25: f"lips are{_DEGREE} parted",
    26: f"jaw is{_DEGREE} dropped",
    27: "mouth is stretched wide open",
    43: "eyes are closed",
}
DENIALS = {4: "no frown", 6: "cheeks are not involved", 12: "no smile|not smiling"}
REST = "at rest"


def contradictions(description: str, units: set[int]) -> Iterator[str]:
    """Name every contradiction between a description and the action units of the same face.

    Args:
        description: the answer to the question about the emotion.
        units: codes of the units that the other answer lists.
    """
    text = description.lower()
    for code, form in DENIALS.items():
        if code in units and re.search(form, text):
            yield f"AU{code} denied"
        text = re.sub(form, "", text)
    yield from (f"AU{code} named" for code, form in MOVEMENTS.items() if code not in units and re.search(form, text))
    if units and REST in text:
        yield "at rest beside units"


def units_of(face: Face) -> set[int]:
    """The units that the list of a face calls present."""
    return {unit.code for unit in face.action_units or () if unit.present}


def answers_of(face: Face) -> tuple[str, str]:
    """The description and the list of action units."""
    return face.emotion.description if face.emotion else "", face.action_units_text or ""


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text))


def known_words() -> set[str]:
    """The words of training answers about drawn expressions."""
    random = np.random.default_rng(0)
    drawn = [draw(random) for draw in (draw_emotion, draw_units) for _ in range(DRAWS)]
    texts = (describe(face, random) for face in drawn for describe in (describe_emotion, describe_units))
    return set().union(*map(words, texts))


def interval(figure: Callable[[Indices], float], count: int) -> tuple[float, float]:
    """The 95 % interval of a figure of `count` faces; the figure takes the indices of a resample."""
    if not count:
        return float("nan"), float("nan")
    random = np.random.default_rng(0)
    found = [figure(random.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def report(name: str, figure: Callable[[Indices], float], count: int) -> dict[str, float]:
    """Print a figure of `count` faces, a share, with its interval, and return both."""
    value = figure(np.arange(count)) if count else float("nan")
    low, high = interval(figure, count)
    print(f"{name:46}{100 * value:6.1f} ({100 * low:5.1f} .. {100 * high:5.1f}) of {count}")
    return {"value": value, "low": low, "high": high, "faces": count}


def report_share(name: str, flags: Sequence[bool]) -> dict[str, float]:
    """`report` the share of faces that have a property."""
    marks = np.array(flags, np.float64)
    return report(name, lambda rows: float(marks[rows].mean()), len(marks))


def report_words(faces: Sequence[Face]) -> dict[str, dict[str, float]]:
    """Report contradictions, unknown words, text outside of the language, and denied cheeks."""
    known, answers = known_words(), [answers_of(face) for face in faces]
    smiles = [text for face, (text, _) in zip(faces, answers, strict=True) if 12 in units_of(face)]
    rows: dict[str, list[bool]] = {
        "contradictions, % of faces": [
            any(contradictions(text, units_of(face))) for face, (text, _) in zip(faces, answers, strict=True)
        ],
        "words that no training answer has": [not words(" ".join(pair)) <= known for pair in answers],
        "text outside of the answer language": [not _belongs(face) for face in faces],
        "'cheeks are not involved', faces with AU12": [bool(re.search(DENIALS[6], text)) for text in smiles],
    }
    return {name: report_share(name, flags) for name, flags in rows.items()}


def _belongs(face: Face) -> bool:
    """Whether both answers could be training answers, apart from reasons that are left out."""
    text, listed = answers_of(face)
    evidence = Evidence(frozenset(units_of(face)), frozenset())
    described = any(Grammar(LANGUAGE, ("emotion",), limits).accepts(text) for limits in (None, evidence))
    return described and Grammar(LANGUAGE, ("action_units",), None).accepts(listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--aligned", action="store_true", help="every picture is the crop of one face")
    parser.add_argument("--limit", type=int, help="number of pictures")
    parser.add_argument("--bundle", help="default: the embedded one")
    args = parser.parse_args()
    with Analyzer(args.bundle) as analyzer:
        pictures = pictures_in(args.pictures)[: args.limit]
        faces = "aligned" if args.aligned else "detect"
        found = [face for one in analyzer.iterate_batch(pictures, faces=faces, keep_going=True) for face in one.faces]
        name = analyzer.manifest.name
    print(json.dumps({"benchmark": "answers_agree", "bundle": name, "figures": report_words(found)}))


if __name__ == "__main__":
    main()
