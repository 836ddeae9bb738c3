"""Counters and histograms in the text format of Prometheus; names that TF Serving has, too, are the same here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MICROSECONDS = tuple(10.0 * 1.8**power for power in range(22))
_ROWS = tuple(float(2**power) for power in range(11))


class Counter:
    """A number that grows, or, where it is set, any number; one for each tuple of label values."""

    def __init__(self, name: str, help: str, labels: Sequence[str], kind: str = "counter"):
        self.name, self._help, self._labels, self._kind = name, help, tuple(labels), kind
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Adds to the number of these label values."""
        self._values[labels] = self._values.get(labels, 0.0) + amount

    def set(self, *labels: str, value: float) -> None:
        """Sets the number of these label values."""
        self._values[labels] = value

    def clear(self) -> None:
        """Forgets all label values."""
        self._values.clear()

    def lines(self) -> Iterator[str]:
        """Text of the metric."""
        yield from _head(self.name, self._help, self._kind)
        for labels, value in sorted(self._values.items()):
            yield f"{self.name}{_braces(zip(self._labels, labels, strict=True))} {value:.15g}"


class Histogram:
    """Counts of values up to each of some bounds, for each tuple of label values."""

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]):
        self.name, self._help, self._labels, self._bounds = name, help, tuple(labels), tuple(bounds)
        self._values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, *labels: str, value: float) -> None:
        """Counts a value."""
        counts, total = self._values.setdefault(labels, ([0] * (len(self._bounds) + 1), [0.0]))
        counts[next((place for place, bound in enumerate(self._bounds) if value <= bound), -1)] += 1
        total[0] += value

    def lines(self) -> Iterator[str]:
        """Text of the metric."""
        yield from _head(self.name, self._help, "histogram")
        for labels, (counts, total) in sorted(self._values.items()):
            pairs, running = list(zip(self._labels, labels, strict=True)), 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                running += count
                yield f"{self.name}_bucket{_braces([*pairs, ('le', '+Inf' if bound == float('inf') else f'{bound:.6g}')])} {running}"
            yield f"{self.name}_sum{_braces(pairs)} {total[0]:.15g}"
            yield f"{self.name}_count{_braces(pairs)} {running}"


class Metrics:
    """Everything that the server counts. Only the thread of the event loop changes it."""

    def __init__(self) -> None:
        served = ("model_name", "API", "entrypoint")
        self.requests = Counter(":tensorflow:serving:request_count", "Requests by status.", ("model_name", "status"))
        self.latency = Histogram(
            ":tensorflow:serving:request_latency", "Microseconds from request to answer.", served, [round(b) for b in _MICROSECONDS]
        )
        self.batch_rows = Histogram("longplay_batch_rows", "Rows of the batches that ran.", ("model_name",), _ROWS)
        self.run_seconds = Counter("longplay_run_seconds_total", "Seconds in which graphs ran.", ("model_name",))
        self.waiting = Counter("longplay_waiting_requests", "Requests that wait to be run.", ("model_name",), "gauge")
        self.versions = Counter("longplay_version_available", "1 for each version that answers.", ("model_name", "version"), "gauge")
        self.load_failures = Counter("longplay_load_failures_total", "Versions that could not be loaded.", ("model_name",))
        self.log_rows = Counter("longplay_log_rows_total", "Rows written to the log of what is served.", ("model_name",))
        self.log_dropped = Counter("longplay_log_dropped_total", "Answers that were not logged.", ("model_name",))
        self.before_text: list[Callable[[], None]] = []

    def text(self) -> str:
        """All metrics, as Prometheus reads them."""
        for prepare in self.before_text:
            prepare()
        counted = (self.requests, self.latency, self.batch_rows, self.run_seconds, self.waiting, self.versions, self.load_failures)
        return "".join(f"{line}\n" for kind in (*counted, self.log_rows, self.log_dropped) for line in kind.lines())


def _head(name: str, help: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _braces(pairs: object) -> str:
    escaped = (f'{name}="{_escape(value)}"' for name, value in pairs)  # type: ignore[attr-defined]
    return "{" + ",".join(escaped) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
