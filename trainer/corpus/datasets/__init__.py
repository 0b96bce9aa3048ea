"""Readers of the classic data sets: from a folder as distributed to a list of labelled faces."""

from trainer.corpus.datasets.bp4d import read_bp4d
from trainer.corpus.datasets.disfa import read_disfa
from trainer.corpus.datasets.folds import average_folds
from trainer.corpus.datasets.gft import read_gft
from trainer.corpus.datasets.labelled_face import NO_UNITS, DatasetName, LabelledFace, LabelledFaceSet
from trainer.corpus.datasets.rafdb import read_rafdb

__all__ = [
    "NO_UNITS",
    "DatasetName",
    "LabelledFace",
    "LabelledFaceSet",
    "average_folds",
    "read_bp4d",
    "read_disfa",
    "read_gft",
    "read_rafdb",
]
