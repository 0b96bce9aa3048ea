"""Files that survive a kill: written whole or not at all, or line by line."""

import json
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it and rename it into place; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """The same for JSON."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def append_journal(path: Path, row: dict[str, Any]) -> None:
    """Add one object to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that a run appends to; a last line that a kill cut off is removed from the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_whole(path, whole)
    return [json.loads(line) for line in whole.splitlines()]
