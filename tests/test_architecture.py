"""docs/architecture.md is the map of what is there: every folder of the packages has its row, every path exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PACKAGES = ("sdk", "trainer", "export")


def test_every_path_exists():
    named = re.findall(r"`((?:sdk|trainer|export|benchmarks|tests|docs)/[\w./-]*)`", PAGE)
    assert len(named) > 20
    missing = [path for path in named if not (ROOT / path).exists() and "yet" not in _line_of(path)]
    assert not missing, "docs/architecture.md names what is not there"


def test_every_module_of_a_row_exists():
    """In a row of a folder, names such as `files.py` are modules of that folder."""
    rows = re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", PAGE, re.MULTILINE)
    missing = [
        f"{folder}/{name}"
        for folder, text in rows
        for name in re.findall(r"`(\w+\.py)`", text)
        if not (ROOT / folder / name).is_file()
    ]
    assert rows
    assert not missing


def test_every_folder_has_a_row():
    """Folders of two levels: sdk/runtime, sdk/runtime/backends; deeper ones belong to the row above."""
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    rows = set(re.findall(r"^\| `([\w/]+)/`", PAGE, re.MULTILINE))
    named = {folder.relative_to(ROOT).as_posix() for folder in folders if len(folder.relative_to(ROOT).parts) <= 2}
    assert named <= rows, f"docs/architecture.md has no row for {sorted(named - rows)}"


def _line_of(path: str) -> str:
    return next(line for line in PAGE.splitlines() if path in line)
