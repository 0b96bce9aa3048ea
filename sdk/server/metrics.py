"""What `/metrics` shows, in the format of Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sdk.server.seats import Seats
from sdk.server.visits import VisitCache

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self, seats: Seats, cache: VisitCache) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("emola_requests", "answered requests", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "emola_request_seconds", "from arrival to the end", ["route"], buckets=_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "emola_stage_seconds", "time of one stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "emola_first_token_seconds", "from arrival to the first text", buckets=_SECONDS, registry=registry
        )
        self._rate = Histogram("emola_tokens_per_second", "of an analysis", buckets=_RATES, registry=registry)
        for name, text, read in (
            ("emola_running", "requests that compute", lambda: seats.running),
            ("emola_waiting", "requests that wait for a seat", lambda: seats.waiting),
            ("emola_cache_bytes", "KV caches kept for further questions", lambda: cache.bytes),
            ("emola_cache_hits", "requests about a picture that was kept", lambda: cache.hits),
            ("emola_cache_misses", "requests about any other picture", lambda: cache.misses),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_text(self, seconds: float) -> None:
        """Record the time to the first text of a request."""
        self._first.observe(seconds)

    def work(self, elapsed_ms: Mapping[str, float], tokens_per_second: float | None) -> None:
        """Record the stages of a request."""
        for stage, milliseconds in elapsed_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if tokens_per_second:
            self._rate.observe(tokens_per_second)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
