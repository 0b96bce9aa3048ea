"""Paths that come from a file: they stay inside the folder of that file."""

from pathlib import Path, PurePosixPath


def relative_path(text: str) -> str:
    """Return a relative path with forward slashes that stays inside its folder.

    Raises:
        ValueError: it does not, on any system; or it has characters that no file of a bundle has.
    """
    parts = PurePosixPath(text).parts
    outside = not parts or text.startswith("/") or ".." in parts or "\\" in text or ":" in text
    if outside or "*" in text or not text.isprintable():  # ONNX Runtime takes "*/_ORT_MEM_ADDR_/*" for a pointer
        raise ValueError(f"path {text!r} leaves the bundle; expected a relative path with forward slashes")
    return text


def is_inside(folder: Path, file: Path) -> bool:
    """Whether a file lies inside a folder after all links are followed."""
    return file.resolve().is_relative_to(folder.resolve())
