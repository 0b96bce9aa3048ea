"""Run a command, show what it prints, and put its tables into a section of docs/reliability.md.

    python benchmarks/reliability/section.py fuzz python benchmarks/reliability/fuzz.py build/fuzz

The section lies between `<!-- fuzz -->` and `<!-- /fuzz -->`. The exit status is that of the command.
"""

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reliability.md"


def main() -> int:
    name, *command = sys.argv[1:]
    tables: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            tables += [line.rstrip()] if line.startswith("|") or not line.strip() else []
    PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), name, tables), encoding="utf-8")
    return child.returncode


def with_section(page: str, name: str, tables: list[str]) -> str:
    """The page with other tables in one section, and when and where they were made."""
    if f"<!-- {name} -->" not in page:
        raise SystemExit(f"{PAGE.name} has no section {name!r}")
    made = f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores of {_processor()}, Python {_python()}"
    content = "\n".join([*"\n".join(tables).strip().splitlines(), "", f"Made on {made}."])
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}\n{content}\n\n{match[2]}", page, flags=re.DOTALL)


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.machine()


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


if __name__ == "__main__":
    sys.exit(main())
