"""The memory that this process can still get: what the system has left, within the limits of its control groups."""

from collections.abc import Iterator
from pathlib import Path


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process can still allocate before it is killed; infinite where the system does not tell.

    Args:
        root: of the file system that holds `proc` and `sys`.
    """
    return min((*_of_system(root), *_of_groups(root)), default=float("inf"))


def _of_system(root: Path) -> Iterator[float]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield 1024 * float(line.split()[1])


def _of_groups(root: Path) -> Iterator[float]:
    """What is left in each group above this process; the page cache of a group can be given back."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        place = root / top / path.strip("/")  # inside a container the path may be that of the host
        for group in (place, *place.parents):
            if group == root or root not in group.parents:
                break
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                yield most - now + _statistic(group / "memory.stat", cache)


def _number(path: Path) -> float | None:
    text = "".join(_lines(path))
    return float(text) if text.isdigit() else None  # "max" is no limit


def _statistic(path: Path, name: str) -> float:
    return next((float(line.split()[1]) for line in _lines(path) if line.split()[0] == name), 0.0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
