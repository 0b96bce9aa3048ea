"""benchmarks/queue_simulation.py obeys queueing theory, and the server's rules in a trace counted by hand."""

import importlib
import math
import random
from itertools import accumulate
from pathlib import Path

import pytest

from sdk.server.seats import Limits

pytest.importorskip("httpx")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ENDLESS = 1e9
COUNT = 60_000


@pytest.fixture(scope="module")
def simulation():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("queue_simulation")


def poisson(rate, draw):
    return list(accumulate(draw.expovariate(rate) for _ in range(COUNT)))


def test_a_trace_by_hand(simulation):
    """One seat, one may wait for 1.5 s, service takes 2 s."""
    arrivals = [0.0, 0.2, 0.3, 0.8, 1.8, 2.6, 3.0, 7.0]
    visits = simulation.simulate(Limits(1, 1, 1.5), lambda: 2.0, arrivals)
    assert [(visit.start, visit.outcome, round(visit.end, 6)) for visit in visits] == [
        (0.3, "full", 0.3),
        (0.8, "full", 0.8),
        (0.2, "late", 1.7),
        (0.0, "answered", 2.0),
        (3.0, "full", 3.0),
        (1.8, "answered", 4.0),
        (2.6, "answered", 6.0),
        (7.0, "answered", 9.0),
    ]


def test_a_crowd_passes_the_event_loop_one_by_one(simulation):
    """Four at once, 1.5 s each for the event loop: two find the seat taken, the last finds it free again."""
    visits = simulation.simulate(Limits(1, 0, 1.0), lambda: 4.0, [0.0] * 4, around=lambda: 1.5)
    assert [(visit.outcome, visit.end) for visit in visits] == [
        ("full", 3.0),
        ("full", 4.5),
        ("answered", 5.5),
        ("answered", 10.0),
    ]


def test_a_deadline_is_that_of_one_request(simulation):
    """Three at once: the second has its seat before its deadline, which does not end the wait of the third."""
    visits = simulation.simulate(Limits(1, 2, 1.5), lambda: 1.0, [0.0] * 3, around=lambda: 0.4)
    assert [(visit.outcome, round(visit.end, 6)) for visit in visits] == [
        ("answered", 1.4),
        ("answered", 2.4),
        ("answered", 3.4),
    ]


def test_erlang_b(simulation):
    """Three seats and no room to wait: Erlang's loss formula, for any distribution of the service time."""
    draw, load, seats = random.Random(0), 2.5, 3
    visits = simulation.simulate(Limits(seats, 0, ENDLESS), lambda: 1.0, poisson(load, draw))
    terms = [load**k / math.factorial(k) for k in range(seats + 1)]
    lost = sum(visit.outcome == "full" for visit in visits) / COUNT
    assert lost == pytest.approx(terms[-1] / sum(terms), abs=0.01)


def test_pollaczek_khinchine(simulation):
    """One seat, constant service: the mean wait is rho / (2 (1 - rho)) services."""
    rho, draw = 0.7, random.Random(1)
    visits = simulation.simulate(Limits(1, COUNT, ENDLESS), lambda: 1.0, poisson(rho, draw))
    wait = sum(visit.end - visit.start - 1 for visit in visits) / COUNT
    assert wait == pytest.approx(rho / (2 * (1 - rho)), rel=0.05)


@pytest.mark.parametrize("rho", [0.8, 1.3])
def test_a_deadline(simulation, rho):
    """One seat, exponential service, unlimited room: the share that leaves at the deadline (Barrer 1957)."""
    draw, deadline = random.Random(2), 2.0
    visits = simulation.simulate(Limits(1, COUNT, deadline), lambda: draw.expovariate(1.0), poisson(rho, draw))
    late = sum(visit.outcome == "late" for visit in visits) / COUNT
    share = math.exp(-(1 - rho) * deadline)
    assert late == pytest.approx(rho * (1 - rho) * share / (1 - rho**2 * share), abs=0.01)


def test_clients_that_ask_again(simulation):
    """Eight clients, one seat: it is never idle, and everybody waits for seven others."""
    visits = simulation.simulate(Limits(), lambda: 0.5, [0.0] * 8, again_until=100)
    found = simulation.summary(visits, 100)
    assert found["per_second"] == pytest.approx(2, rel=0.05)
    assert (found["p50_ms"], found["full"], found["late"]) == (4000, 0, 0)


def test_what_differs_is_named(simulation):
    found = {"predicted": {"per_second": 10.0, "p50_ms": 100.0, "full": 0.1, "crowd_answers": 17}}
    found["measured"] = {"per_second": 8.0, "p50_ms": 126.0, "full": 0.19, "crowd_answers": 24}
    assert simulation.deviations(found, 0.25) == [
        "p50_ms: predicted 100.0, measured 126.0",
        "crowd_answers: predicted 17, measured 24",
    ]
    assert simulation.deviations({**found, "unexpected": ["500"]}, 1.0)[0] == "unexpected status 500"


def test_a_plan(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    scale = importlib.import_module("scale_plan")
    found = scale.plan(1e6, 10, 0.5, 1)  # 27.8 machine hours
    assert (found["machine_hours"], found["machines"], found["hours"]) == (27.8, 2, 13.9)
    assert found["cost"] == found["cost_per_million"] == 13.89
    assert scale.frame_rate(rate=5, found=10, read=0.5) == 5
