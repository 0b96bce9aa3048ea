"""The data sets of the paper: who gives them out, and what their folders look like."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: folder in the data folder, and name in messages.
        dataset: name in scores.
        request: where it is requested.
        terms: who may have it.
        layout: path patterns of the folder, with a remark each.
    """

    name: str
    dataset: str
    request: str
    terms: str
    layout: tuple[tuple[str, str], ...]

    @property
    def word(self) -> str:
        """The name as `emola data prepare` takes it, and in the names of our folders."""
        return self.name.replace("-", "").lower()

    def missing(self, data: Path) -> list[str]:
        """The patterns of the layout that match nothing in a data folder."""
        folder = data / self.name
        return [pattern for pattern, _ in self.layout if next(folder.glob(pattern), None) is None]

    def shape(self) -> list[str]:
        """What the folder must hold, as lines."""
        width = max(len(pattern) for pattern, _ in self.layout)
        return [f"{self.name}/{pattern:{width}}  {remark}".rstrip() for pattern, remark in self.layout]


_FABA_PARTS = (("images", "pictures"), ("landmarks", "landmark files"))
_ON_REQUEST = "for research, on request"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "FABAInstruct",
            "FABA",
            "https://johnx69.github.io/FABA/",
            "linked on the page of the authors; its pictures are AffectNet's, whose terms apply",
            (
                *(
                    (f"{split}/{split}_{task}_anno.json", "")
                    for split in ("train", "eval")
                    for task in ("emotion", "au")
                ),
                *((f"{split}/{part}", remark) for split in ("train", "eval") for part, remark in _FABA_PARTS),
            ),
        ),
        Source(
            "RAF-DB",
            "RAF-DB",
            "http://www.whdeng.cn/RAF/model1.html",
            _ON_REQUEST,
            (
                ("EmoLabel/list_patition_label.txt", "labels of `basic`, 12,271 for training and 3,068 for the test"),
                ("Image/aligned/train_*_aligned.jpg", "aligned pictures"),
                ("Image/aligned/test_*_aligned.jpg", ""),
            ),
        ),
        Source(
            "DISFA",
            "DISFA",
            "http://mohammadmahoor.com/disfa/",
            _ON_REQUEST,
            (
                ("ActionUnit_Labels/SN*/SN*_au*.txt", "lines frame,intensity; 27 subjects"),
                ("*/LeftVideoSN*", "videos LeftVideoSN001_comp.avi, or folders of their frames from 1"),
            ),
        ),
        Source(
            "BP4D",
            "BP4D",
            "http://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html",
            _ON_REQUEST,
            (
                ("AUCoding/AU_OCC/*_T*.csv", "coding sheets F001_T1.csv; 41 subjects"),
                ("**/F001/T1", "pictures F001/T1/2440.jpg, here or in a subfolder"),
            ),
        ),
        Source(
            "GFT",
            "GFT",
            "https://osf.io/7wcyz/",
            "codes under CC BY 4.0 there; videos on request, with a signed agreement",
            (
                ("partition.csv", "the official division, lines participant,split with train or test"),
                ("**/*.csv", "coding sheets 001A.csv or 001A_*.csv"),
            ),
        ),
    )
}
