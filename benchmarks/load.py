"""Load `emola serve` on loopback: latency, throughput, errors, memory, and what happens when too many come.

    python benchmarks/load.py [BUNDLE] [--clients 8] [--seconds 600] [--crowd 64]

Starts the server in a child process. First some clients ask one after another; every answer must equal that of the
first request about the same picture. Then a crowd arrives at once: it must get answers or quick refusals with
Retry-After, and the server must answer normally afterwards. Prints a table and one line of JSON; the exit code is 1 if
something failed.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from sdk.bench.machine import environment
from sdk.commands.demo import PICTURES

READY_S, WARM_S = 300, 20


@contextmanager
def server(bundle: list[str]) -> Iterator[tuple[str, int]]:
    """A server in a child process; yields its address and process id."""
    command = [sys.executable, "-m", "sdk", "serve", *bundle, "--port", "0"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(child.stderr.readline, "")  # type: ignore[union-attr]
        address = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
        yield address, child.pid
    finally:
        child.terminate()
        child.communicate()


def resident(process: int) -> int:
    """Resident memory of a process in bytes."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return 1024 * int(found[1]) if found else 0


async def ask(client: httpx.AsyncClient, picture: bytes) -> tuple[int, float, Any]:
    """One analysis: status, seconds, and its faces."""
    start = time.perf_counter()
    answer = await client.post("/v1/analyze", files={"image": picture})
    found = answer.json().get("faces") if answer.status_code == 200 else answer.headers.get("retry-after")
    return answer.status_code, time.perf_counter() - start, found


async def steady(client: httpx.AsyncClient, process: int, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask again as soon as they have an answer."""
    pictures = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))]
    expected = [(await ask(client, picture))[2] for picture in pictures]
    times: list[float] = []
    codes: Counter[str] = Counter()
    end, memory = time.monotonic() + seconds, []

    async def visitor(number: int) -> None:
        while time.monotonic() < end:
            index = number % len(pictures)
            code, elapsed, faces = await ask(client, pictures[index])
            codes["wrong answer" if code == 200 and faces != expected[index] else str(code)] += 1
            times.append(elapsed)
            number += 1

    async def watcher() -> None:
        await asyncio.sleep(min(WARM_S, seconds / 4))
        while time.monotonic() < end:
            memory.append(resident(process))
            await asyncio.sleep(1)

    await asyncio.gather(watcher(), *(visitor(number) for number in range(clients)))
    if len(times) < 2:
        raise SystemExit(f"{len(times)} answers in {seconds} s are too few; make --seconds longer")
    cuts = statistics.quantiles(times, n=100)
    quarter = max(1, len(memory) // 4)
    growth = statistics.median(memory[-quarter:]) / statistics.median(memory[:quarter]) - 1
    shares = {f"p{share}_ms": round(1000 * cuts[share - 1], 1) for share in (50, 95, 99)}
    return {
        "clients": clients,
        "requests": len(times),
        "per_second": round(len(times) / seconds, 2),
        **shares,
        "codes": dict(codes),
        "resident_mb": round(memory[-1] / 1e6),
        "growth": round(growth, 4),
    }


async def crowd(client: httpx.AsyncClient, size: int) -> dict[str, Any]:
    """Many requests at once, then one more."""
    picture = (PICTURES / "astronaut.jpg").read_bytes()
    found = await asyncio.gather(*(ask(client, picture) for _ in range(size)))
    refused = [(elapsed, wait) for code, elapsed, wait in found if code == 429]
    after = await ask(client, picture)
    return {
        "clients": size,
        "codes": dict(Counter(str(code) for code, _, _ in found)),
        "median_refusal_ms": round(1000 * statistics.median(elapsed for elapsed, _ in refused), 1) if refused else None,
        "with_retry_after": sum(bool(wait) for _, wait in refused),
        "afterwards": after[0],
    }


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the server is ready."""
    end = time.monotonic() + READY_S
    while (await client.get("/readyz")).status_code != 200 and time.monotonic() < end:
        await asyncio.sleep(0.1)


async def measure(address: str, process: int, args: argparse.Namespace) -> dict[str, Any]:
    """Both loads on a server that is ready."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=READY_S, limits=limits) as client:
        await ready(client)
        found = {"steady": await steady(client, process, args.clients, args.seconds)}
        return {**found, "crowd": await crowd(client, args.crowd), "environment": environment()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", help="folder (default: the embedded bundle)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--crowd", type=int, default=64)
    args = parser.parse_args()
    if os.name != "posix" or not Path("/proc/self/status").is_file():
        parser.error("memory is read from /proc, so it runs on Linux only")
    with server(args.bundle) as (address, process):
        found = asyncio.run(measure(address, process, args))
    for name in ("steady", "crowd"):
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found[name].items()))
    print(json.dumps(found))
    fine = set(found["steady"]["codes"]) == {"200"} and set(found["crowd"]["codes"]) <= {"200", "429"}
    return int(not (fine and found["steady"]["growth"] < 0.05 and found["crowd"]["afterwards"] == 200))


if __name__ == "__main__":
    sys.exit(main())
