"""Tables of a teacher far away, its latency and its dollars, and of a server with many users."""

from __future__ import annotations

from collections.abc import Callable

from table_text import interval, load, number, table


def latency(folder: str) -> str:
    """Return tokens a second at each latency and span, over those of the engine with both models here."""
    found = load(folder, "latency")
    rows = {(row["batch_size"], row["latency_ms"], row["span"], row["write_on"]): row for row in found["rows"]}
    shown = []
    for batch in found["config"]["batch_sizes"]:
        here = rows[batch, None, "tokens:1", False]
        shown.append(
            [str(batch), "both models here", "1", _spread(here["tokens_per_second"]), "", "", number(here["use"])]
        )
        for added in found["config"]["latencies"]:
            for span in found["config"]["spans"]:
                waits, on = rows[batch, added, span, False], rows.get((batch, added, span, True))
                cells = [
                    _spread(waits["tokens_per_second"]),
                    "" if on is None else _spread(on["tokens_per_second"]),
                    "" if on is None else f"{on['hidden']:.0%}",
                ]
                shown.append([str(batch), f"{added:g} ms", span.removeprefix("tokens:"), *cells, number(waits["use"])])
    return table(["texts in flight", "latency", "span", "waiting", "writing on", "guessed", "use"], shown)


def _spread(found: dict[str, float], digits: int = 0) -> str:
    median, low, high = (f"{found[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def money(folder: str, metric: str) -> str:
    """Return what each way cost, how it kept its ceiling, and what quality it bought."""
    found = load(folder, "money")
    thousand, shown = 1000 / found["texts"], []
    for row in found["rows"]:
        kept = "" if row["kept"] is None else f"{row['kept']:.2%}"
        share = "" if row["share"] is None else f"{row['share']:g}"
        dollars, more = row["dollars"] * thousand, row[metric]["more"]
        bought = number(more / dollars / 100, 1) if dollars else ""
        quality = [number(row[metric]["value"], 1), interval(row[metric], "more", 1), bought]
        shown.append([share, row["way"], number(100 * dollars, 2), kept, number(row["use"]), *quality])
    names = [metric.upper() if metric == "bleu" else metric, "more than the student", "more, a cent"]
    return table(["ceiling", "way", "cents", "of the ceiling", "use", *names], shown)


def served(folder: str) -> str:
    """Return what many clients saw of the server, beside the engine alone on the same texts."""
    found = load(folder, "load")
    waits = [f"{found[which]['p50']:.0f}, {found[which]['p95']:.0f} ms" for which in ("first_ms", "between_ms")]
    rows = [
        ["streams, errors", f"{found['streams']:,}, {found['errors']}"],
        ["seconds of streaming", f"{found['seconds']:.0f}"],
        ["wait for the first tokens, p50 and p95", waits[0]],
        ["between two events of a stream, p50 and p95", waits[1]],
        ["memory after each round, MiB", ", ".join(f"{each:.0f}" for each in found["memory_mib"])],
        *(
            [what, _spread(found[name], digits)]
            for what, name, digits in (
                ("tokens a second, served", "served", 0),
                ("tokens a second, the engine alone", "alone", 0),
                ("served over alone, tokens a second", "ratio", 2),
                ("served over alone, tokens a processor second", "processor_ratio", 2),
            )
        ),
    ]
    return table(["", f"{found['config']['users']} clients"], rows)


def beside(folder: str) -> str:
    """Return how fast all users and each of them were served, by each server."""
    found, shown = load(folder, "beside"), []
    for row in sorted(found["rows"], key=lambda row: row["users"]):
        rates = [f"{row[name]['median']:.0f}" for name in ("tokens_per_second", "tokens_per_processor_second")]
        each = f"{row['per_user']['median']:.1f}"
        shown.append([str(row["users"]), row["system"], *rates, each, f"{row['as_teacher']:.0%}"])
    names = ["tokens a second", "a processor second", "a second, each user", "texts of the teacher"]
    return table(["users", "server", *names], shown)


TABLES: dict[str, Callable[..., str]] = {"latency": latency, "money": money, "served": served, "beside": beside}
