"""docs/architecture.md is the map of what is there: every folder of the packages has its row, every path exists."""

import ast
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


def test_files_and_functions_stay_small():
    """No file has more than 350 lines, no function more than 60."""
    long = []
    for path in (path for folder in (*PACKAGES, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 350:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not long


def _line_of(path: str) -> str:
    return next(line for line in PAGE.splitlines() if path in line)
