"""EmoLA Edge: explained facial affect on your own machine. `from sdk import Analyzer`."""

from sdk.analyzer import Analyzer
from sdk.errors import SdkError
from sdk.results import Analysis

__all__ = ["Analysis", "Analyzer", "SdkError"]
__version__ = "0.1.0"
