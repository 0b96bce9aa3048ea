"""Readers of the classic data sets: a folder as its makers distribute it becomes a list of labelled faces."""

from .bp4d import read_bp4d
from .disfa import read_disfa
from .folds import average_folds
from .gft import read_gft
from .rafdb import read_rafdb
from .sample import NO_UNITS, Dataset, Sample, SampleSet

__all__ = [
    "NO_UNITS",
    "Dataset",
    "Sample",
    "SampleSet",
    "average_folds",
    "read_bp4d",
    "read_disfa",
    "read_gft",
    "read_rafdb",
]
