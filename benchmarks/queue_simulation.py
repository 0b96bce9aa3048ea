"""Predict latency and refusals of `emola serve` with a discrete-event simulation, and check that against a real server.

    python benchmarks/queue_simulation.py [BUNDLE] [--seconds 30] [--seats 1] [--waiting 4] [--deadline 0.5]

The simulation knows the rules of `sdk/server/seats.py` and nothing of its code: requests pass the event loop one by
one, then take a free seat, or wait in order if there is room and until a deadline, or are refused. It is given two
times, measured before and after each load: the gaps between the answers to two clients, which keep one seat busy, are
times in a seat; what a single request on a new connection takes longer is the time around it. Two loads are predicted,
then run:

- benchmarks/load.py, as it is: clients that ask again as soon as they have an answer, then a crowd at once;
- requests at random times (Poisson), 1.5 times as many as the seats can answer, with a short queue and deadline.

Prints predictions beside measurements and one line of JSON; the exit code is 1 if they differ by more than a tolerance.
"""

import argparse
import asyncio
import heapq
import itertools
import json
import random
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import load

from sdk.commands.demo import PICTURES
from sdk.server.seats import Limits

SAMPLES = 12  # requests of each client of a calibration
SHARE, CROWD = 0.1, 6  # tolerances: difference of two shares, and of the answers to a crowd


@dataclass(frozen=True)
class Visit:
    """A request: when it came, how it ended ("answered", "full" or "late"), and when."""

    start: float
    outcome: str
    end: float


def simulate(
    limits: Limits,
    service: Callable[[], float],
    arrivals: Iterable[float],
    *,
    around: Callable[[], float] = lambda: 0.0,
    again_until: float = 0.0,
) -> list[Visit]:
    """Simulate a server.

    Args:
        limits: seats, room to wait, and deadline.
        service: draws the seconds of one request in its seat.
        arrivals: times of requests in seconds.
        around: draws the seconds that one request takes the event loop, which serves one at a time, before it may sit.
        again_until: before this time, a client that has its answer or refusal asks again at once.

    Returns:
        The visits in the order in which the server decides about them.
    """
    order, loop_free = itertools.count(), 0.0
    events = [(time, next(order), "come", (time, next(order))) for time in arrivals]
    heapq.heapify(events)
    waiting: deque[tuple[float, int]] = deque()  # start and number: several may start at once
    free, visits = limits.seats, []

    def schedule(time: float, kind: str, request: tuple[float, int]) -> None:
        heapq.heappush(events, (time, next(order), kind, request))

    def finish(request: tuple[float, int], outcome: str, end: float) -> None:
        visits.append(Visit(request[0], outcome, end))
        if end < again_until:
            schedule(end, "come", (end, next(order)))

    while events:
        now, _, kind, request = heapq.heappop(events)
        if kind == "come":
            loop_free = max(now, loop_free) + around()
            schedule(loop_free, "sit", request)
        elif kind == "sit" and free:
            free -= 1
            schedule(now + service(), "leave", request)
        elif kind == "sit" and len(waiting) >= limits.waiting:
            finish(request, "full", now)
        elif kind == "sit":
            waiting.append(request)
            schedule(now + limits.deadline_s, "expire", request)
        elif kind == "expire" and request in waiting:
            waiting.remove(request)
            finish(request, "late", now)
        elif kind == "leave":
            finish(request, "answered", now)
            if waiting:
                schedule(now + service(), "leave", waiting.popleft())
            else:
                free += 1
    return visits


def summary(visits: Sequence[Visit], seconds: float) -> dict[str, float]:
    """Answers per second, quantiles of their latency in milliseconds, and the shares of refusals."""
    times = [1000 * (visit.end - visit.start) for visit in visits if visit.outcome == "answered"]
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    count = Counter(visit.outcome for visit in visits)
    shares = {outcome: round(count[outcome] / max(len(visits), 1), 3) for outcome in ("full", "late")}
    quantiles = {f"p{share}_ms": round(cuts[share - 1], 1) for share in (50, 95)}
    return {"per_second": round(len(times) / seconds, 2), **quantiles, **shares}


class Calibration:
    """Measured seconds of requests in a seat and around it.

    Args:
        address: of the server.
        seats: of the server; two clients for each keep them busy.
    """

    def __init__(self, address: str, seats: int) -> None:
        self._address, self._seats = address, seats
        self.gaps: list[float] = []
        self.single: list[float] = []

    async def measure(self) -> None:
        """Add samples; every picture is asked about several times, as in benchmarks/load.py."""
        pictures = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))]
        ends = []

        async def visitor(client: httpx.AsyncClient, first: int, count: int) -> None:
            for number in range(first, first + count):
                _, seconds, _ = await load.ask(client, pictures[number % len(pictures)])
                ends.append((time.perf_counter(), seconds))

        async with open_client(self._address, keep=True) as client:
            await asyncio.gather(*(visitor(client, number, SAMPLES) for number in range(2 * self._seats)))
        times = [end for end, _ in ends]
        self.gaps += [self._seats * (after - before) for before, after in itertools.pairwise(times[: -self._seats])]
        async with open_client(self._address, keep=False) as client:
            await visitor(client, 0, SAMPLES)
        self.single += [seconds for _, seconds in ends[-SAMPLES:]]

    @property
    def seat_s(self) -> float:
        return statistics.mean(self.gaps)

    @property
    def around_s(self) -> float:
        return max(0.0, statistics.mean(self.single) - self.seat_s)

    def simulate(self, limits: Limits, arrivals: Sequence[float], again_until: float = 0.0) -> list[Visit]:
        """Simulate a server with these times, drawn at random."""
        draw = random.Random(2)
        return simulate(
            limits, lambda: draw.choice(self.gaps), arrivals, around=lambda: self.around_s, again_until=again_until
        )

    def summary(self) -> dict[str, float]:
        return {"seat_ms": round(1000 * self.seat_s, 1), "around_ms": round(1000 * self.around_s, 1)}


def open_client(address: str, *, keep: bool) -> httpx.AsyncClient:
    """A client that keeps its connections, or opens one for each request."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if keep else 0)
    return httpx.AsyncClient(base_url=address, timeout=load.READY_S, limits=limits)


async def prepare(client: httpx.AsyncClient) -> None:
    """Wait until the server is ready, and ask about every picture: the first question takes longer than the next."""
    await load.ready(client)
    for path in 3 * sorted(PICTURES.glob("*.jpg")):
        await load.ask(client, path.read_bytes())


async def random_load(client: httpx.AsyncClient, arrivals: Sequence[float]) -> list[Visit]:
    """Send requests at given times."""
    pictures = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))]
    loop = asyncio.get_running_loop()
    origin = loop.time()

    async def visit(number: int, time: float) -> Visit:
        await asyncio.sleep(origin + time - loop.time())
        start = loop.time()
        answer = await client.post("/v1/analyze", files={"image": pictures[number % len(pictures)]})
        late = answer.status_code == 429 and "no seat was free" in answer.text
        known = {200: "answered", 429: "late" if late else "full"}
        return Visit(start, known.get(answer.status_code, str(answer.status_code)), loop.time())

    return await asyncio.gather(*(visit(number, time) for number, time in enumerate(arrivals)))


async def poisson(address: str, limits: Limits, args: argparse.Namespace) -> dict[str, Any]:
    """Predict and run the load with random arrivals."""
    async with open_client(address, keep=True) as client:
        await prepare(client)
        calibration = Calibration(address, limits.seats)
        await calibration.measure()
        draw, rate = random.Random(1), args.load * limits.seats / calibration.seat_s
        arrivals = list(itertools.accumulate(draw.expovariate(rate) for _ in range(round(rate * args.seconds))))
        visits = await random_load(client, arrivals)
        await calibration.measure()
    return {
        **calibration.summary(),
        "predicted": summary(calibration.simulate(limits, arrivals), arrivals[-1]),
        "measured": summary(visits, arrivals[-1]),
        "unexpected": sorted({visit.outcome for visit in visits} - {"answered", "full", "late"}),
    }


async def closed(address: str, process: int, args: argparse.Namespace) -> dict[str, Any]:
    """Predict benchmarks/load.py and run it."""
    async with open_client(address, keep=True) as client:
        await prepare(client)
    limits = Limits()
    calibration = Calibration(address, limits.seats)
    await calibration.measure()
    measured = await load.measure(address, process, args)
    await calibration.measure()
    visits = calibration.simulate(limits, [0.0] * args.clients, again_until=args.seconds)
    crowd = Counter(visit.outcome for visit in calibration.simulate(limits, [0.0] * args.crowd))
    steady, answers = measured["steady"], measured["crowd"]["codes"].get("200", 0)
    refused = round(1 - steady["codes"].get("200", 0) / steady["requests"], 3)
    return {
        **calibration.summary(),
        "predicted": {**summary(visits, args.seconds), "crowd_answers": crowd["answered"]},
        "measured": {
            **{name: steady[name] for name in ("per_second", "p50_ms", "p95_ms")},
            **{"full": refused, "late": 0.0, "crowd_answers": answers},
        },
    }


def deviations(found: dict[str, Any], tolerance: float) -> list[str]:
    """What differs by more than the tolerance; shares and counts have tolerances of their own."""
    wrong = [f"unexpected status {status}" for status in found.get("unexpected", ())]
    for name, expected in found["predicted"].items():
        limit = SHARE if name in ("full", "late") else CROWD if name == "crowd_answers" else tolerance * expected
        if abs(found["measured"][name] - expected) > limit:
            wrong.append(f"{name}: predicted {expected}, measured {found['measured'][name]}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", help="folder (default: the embedded bundle)")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--crowd", type=int, default=64)
    parser.add_argument("--seats", type=int, default=1, help="of the server with random arrivals")
    parser.add_argument("--waiting", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=0.5)
    parser.add_argument("--load", type=float, default=1.5, help="arrivals in relation to what the seats can answer")
    parser.add_argument("--tolerance", type=float, default=0.25, help="relative difference that is accepted")
    args = parser.parse_args()
    limits = Limits(args.seats, args.waiting, args.deadline)
    words = [f"--seats={limits.seats}", f"--waiting={limits.waiting}", f"--deadline={limits.deadline_s}"]
    found = {}
    with load.server(args.bundle) as (address, process):
        found["load.py"] = asyncio.run(closed(address, process, args))
    with load.server([*args.bundle, *words]) as (address, _):
        found["random"] = asyncio.run(poisson(address, limits, args))
    wrong = []
    for name, each in found.items():
        print(f"{name}: one request takes {each['seat_ms']} ms in the seat and {each['around_ms']} ms around it")
        for key, value in each["predicted"].items():
            print(f"  {key:14} predicted {value:8}  measured {each['measured'][key]:8}")
        wrong += [f"{name}: {text}" for text in deviations(each, args.tolerance)]
    print("\n".join(wrong) or f"all within the tolerance of {args.tolerance:.0%}")
    print(json.dumps({**found, "deviations": wrong}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
