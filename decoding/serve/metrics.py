"""What a server counts, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latencies' buckets, in seconds."""
COUNTERS = {
    "requests": "requests that were answered, by path and status",
    "tokens": "tokens that were written, by author",
    "prompt_tokens": "tokens of prompts that were read",
    "passes": "forward passes that served texts, summed over the texts, by model",
    "dollars": "what the teacher's tokens cost, where prices are given",
    "disconnects": "requests whose client left before the end",
    "refused": "requests that were turned away because the queue was full",
    "failures": "requests that failed in the engine",
}
GAUGES = {
    "texts_in_flight": "texts that wait or are being written",
    "texts_waiting": "those that wait for a place in a batch",
    "teacher_use": "the share of all tokens so far that the teacher wrote",
    "ready": "whether requests are taken",
}
HISTOGRAMS = {
    "first_token_seconds": "from the request to its first token",
    "between_tokens_seconds": "between two tokens of a text, as they were passed on",
    "request_seconds": "from the request to its end",
}


class Histogram:
    """Counts of observations below each bound, and their sum."""

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BOUNDS) + 1), 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, several times over."""
        self.counts[bisect_left(BOUNDS, value)] += times
        self.total += value * times

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of its samples."""
        below = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {below}"


class Metrics:
    """All of a server's counts; in the event loop alone."""

    def __init__(self) -> None:
        self.counters: dict[str, defaultdict[str, float]] = {name: defaultdict(int) for name in COUNTERS}
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter; the values of labels are words of ours."""
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        self.counters[name][f"{{{shown}}}" if shown else ""] += amount

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all of it, beside what is measured now."""
        tokens = self.counters["tokens"]
        written = sum(tokens.values())
        now = {"teacher_use": tokens['{author="teacher"}'] / written if written else 0.0, **gauges}
        lines = []
        for name, help in COUNTERS.items():
            lines += [f"# HELP wheels_{name}_total {help}", f"# TYPE wheels_{name}_total counter"]
            samples = self.counters[name] or {"": 0}
            lines += [f"wheels_{name}_total{labels} {value}" for labels, value in sorted(samples.items())]
        for name, help in GAUGES.items():
            lines += [f"# HELP wheels_{name} {help}", f"# TYPE wheels_{name} gauge", f"wheels_{name} {now[name]:g}"]
        for name, help in HISTOGRAMS.items():
            lines += [f"# HELP wheels_{name} {help}", f"# TYPE wheels_{name} histogram"]
            lines += self.histograms[name].lines(f"wheels_{name}")
        return "\n".join(lines) + "\n"
