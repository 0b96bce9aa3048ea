"""Notice when a file of an open bundle is changed. ONNX Runtime and numpy map weights, so a change would reach them."""

from collections.abc import Mapping
from pathlib import Path

from sdk.bundles.files import AGAIN, FileRecord
from sdk.errors import IntegrityError


class WatchedFiles:
    """The state of the files of a bundle when it is opened: inode, size and time of the last change.

    Args:
        bundle: its folder.
        files: the records of the manifest.

    Raises:
        IntegrityError: a file is missing or has another size than its record.
    """

    def __init__(self, bundle: Path, files: Mapping[str, FileRecord]) -> None:
        self._states = {bundle / name: _state(bundle / name) for name in files}
        for name, record in files.items():
            state = self._states[bundle / name]
            if state is None or state[1] != record.size:
                raise IntegrityError(f"{bundle / name} was replaced while it was opened; {AGAIN}")

    def check_opened(self) -> None:
        """Check, when all files are open, that none was replaced meanwhile: the model would be a mixture.

        Raises:
            IntegrityError: one was.
        """
        for path, before in self._states.items():
            if _state(path) != before:
                raise IntegrityError(f"{path} was replaced while the bundle was opened; open it again")

    def check(self) -> None:
        """Check that no file was changed in place. A file that was replaced by a rename stays open as it was.

        Raises:
            IntegrityError: one was changed.
        """
        for path, before in self._states.items():
            now = _state(path)
            if before and now and now[0] == before[0] and now != before:
                raise IntegrityError(
                    f"{path} was changed while the bundle was open; open it again (to update a bundle, write a new "
                    "folder and rename it)"
                )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
