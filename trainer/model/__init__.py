"""The network and its description on disk: config, weight files, LoRA factors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.model.emola import EmoLA

__all__ = ["EmoLA"]


def __getattr__(name: str) -> Any:
    """Import EmoLA on first use, so that the other modules can be imported without torch."""
    if name != "EmoLA":
        raise AttributeError(f"module 'trainer.model' has no attribute {name!r}")
    globals()[name] = found = import_module("trainer.model.emola").EmoLA
    return found
