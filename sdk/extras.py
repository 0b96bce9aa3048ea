"""Which packages each extra of emola-edge installs, and which of them are here; read from the installed metadata."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

DISTRIBUTION = "emola-edge"
BASE = ""  # in place of an extra: what every installation needs

# Modules whose names differ from those of their distributions.
_MODULES = {
    "pillow": "PIL",
    "dlib-bin": "dlib",
    "onnxruntime-gpu": "onnxruntime",
    "cuda-python": "cuda.bindings.runtime",
    "protobuf": "google.protobuf",
}


@cache
def requirements() -> Mapping[str, tuple[Requirement, ...]]:
    """The packages of every extra that this system and this Python need; those of all installations under BASE.

    Raises:
        PackageNotFoundError: emola-edge is not installed in this Python.
    """
    needed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    names = metadata(DISTRIBUTION).get_all("Provides-Extra") or ()
    found = {name: tuple(each for each in needed if _only_with(each, name)) for name in names}
    return {BASE: tuple(each for each in needed if _applies(each, BASE)), **found}


def shortfall(requirement: Requirement) -> str | None:
    """Why a package does not meet its requirement: missing, or which version is here; None if it does."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, expected {requirement.specifier}"


def module_of(requirement: Requirement) -> str:
    """The module that a package is imported as."""
    return _MODULES.get(requirement.name, re.sub("[-.]", "_", requirement.name))


def extra_with(module: str, candidates: Iterable[str]) -> str | None:
    """The first of several extras that installs a module; None if none does."""
    try:
        found = requirements()
    except PackageNotFoundError:
        return None
    top = module.split(".")[0]
    owners = (name for name in candidates for each in found.get(name, ()) if module_of(each).split(".")[0] == top)
    return next(owners, None)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _only_with(requirement: Requirement, extra: str) -> bool:
    return _applies(requirement, extra) and not _applies(requirement, BASE)
