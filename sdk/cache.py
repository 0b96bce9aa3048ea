"""The folder for what is downloaded or computed once: `$EMOLA_CACHE`, by default `~/.cache/emola-edge`."""

import os
from pathlib import Path

from sdk.errors import DownloadError


def cache_folder() -> Path:
    """The folder; it may not exist yet.

    Raises:
        DownloadError: there is no home folder.
    """
    try:
        return Path(os.environ.get("EMOLA_CACHE") or Path.home() / ".cache" / "emola-edge")
    except RuntimeError:
        raise DownloadError("there is no home folder for downloads; set EMOLA_CACHE to a folder") from None
