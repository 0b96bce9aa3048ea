"""Bundles that somebody made up: complete and with a digest that fits, but not what the export writes."""

import json
import shutil
from pathlib import Path

from sdk.bundles.files import file_sha256
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import with_digest


def copy_bundle(folder: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, folder))


def reseal(folder: Path, *, listed=(), change=None) -> Path:
    """Write a manifest that fits the files of the folder.

    Args:
        listed: more files to list.
        change: changes the content in place.
    """
    content = json.loads((EMBEDDED / "manifest.json").read_text(encoding="utf-8"))
    del content["digest"]
    content["files"] = {
        name: {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in sorted({*content["files"], *listed})
        if (folder / name).is_file()
    }
    if change:
        change(content)
    (folder / "manifest.json").write_text(with_digest(content), encoding="utf-8")
    return folder


def manifest_alone(folder: Path, change) -> Path:
    """Write the changed manifest of the embedded bundle, without its files, which are looked at last."""
    content = json.loads((EMBEDDED / "manifest.json").read_text(encoding="utf-8"))
    del content["digest"]
    change(content)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(with_digest(content), encoding="utf-8")
    return folder
