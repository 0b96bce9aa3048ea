"""Read a Dockerfile, so that its steps can run without docker."""

import re
from pathlib import Path

INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, in order, without comments and line ends."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [match.groups() for line in whole.splitlines() if (match := INSTRUCTION.match(line))]
