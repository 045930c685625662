"""The README is short, and its figures are those of the committed results."""

from typing import Any

from table_text import interval, load, number

from tests.docs.blocks import ROOT

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def share(folder: str, rule: str, metric: str) -> float:
    """Return the share of the gap that a rule recovers at use 0.2."""
    rows = load(folder, "curve")["at_use"]
    return next(row["pgr"] for row in rows if (row["rule"], row["use"], row["metric"]) == (rule, 0.2, metric))


def over_thresholds(folder: str, use: float, metric: str = "bleu") -> dict[str, Any]:
    """Return `learned` minus the best threshold at some use."""
    wanted = ("learned", "best trivial", metric, use)
    rows = load(folder, "curve")["paired"]
    return next(row for row in rows if (row["rule"], row["against"], row["metric"], row["budget"]) == wanted)


def speedup(folder: str, batch_size: int) -> float:
    """Return how much faster than the fastest teacher alone of the run deferral is."""
    batches = load(folder, "speed")["batches"]
    ways = next(batch["contestants"] for batch in batches if batch["batch_size"] == batch_size)
    return next(way["speedup"]["median"] for way in ways if way["name"] == "deferral")


def tokens(folder: str, batch_size: int, name: str) -> int:
    """Return a way's tokens a second."""
    batch = next(batch for batch in load(folder, "speed")["batches"] if batch["batch_size"] == batch_size)
    return round(next(way["tokens_per_second"]["median"] for way in batch["contestants"] if way["name"] == name))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_shares_of_the_gap() -> None:
    learned, margin, random = (
        [f"{100 * share('multi30k_medium', rule, metric):.0f}%" for metric in ("bleu", "chrf")]
        for rule in ("learned", "margin", "random")
    )
    assert f"recovers {learned[0]} of the gap between the two in BLEU ({learned[1]} in chrF)" in README
    assert f"recovers {margin[0]} ({margin[1]}), random calls {random[0]} ({random[1]})" in README
    compression = [number(share("sentence_compression", rule, "rougeL")) for rule in ("learned", "margin")]
    assert f"{compression[0]} of the ROUGE-L gap, the best threshold {compression[1]}" in README


def test_differences() -> None:
    for use in (0.1, 0.2):
        folders = ("multi30k_medium", "tatoeba_drawn_afresh")
        multi30k, tatoeba = (interval(over_thresholds(folder, use)) for folder in folders)
        shown = multi30k.replace(" [", " BLEU [") + f" on Multi30k and {tatoeba} on Tatoeba"
        assert f"t {use:g}: {shown}" in README.replace("use ", "")
    pretrained = interval(over_thresholds("smollm2_compression", 0.1, "rougeL")).replace(" [", " ROUGE-L [")
    assert f"not above the best threshold: {pretrained} at use 0.1" in README
    wanted = ("verified, 1 nats", 0.2, "bleu")
    rows = load("multi30k_de_en_passes", "passes")["versus"]
    verified = next(row for row in rows if (row["line"], row["passes"], row["metric"]) == wanted)
    assert verified["baseline"] == "deferral"
    assert interval(verified).replace(" [", " BLEU [") in README


def test_budgets() -> None:
    errors = [
        load(folder, "curve")["adherence"]["learned"]["mean_abs_error"]
        for folder in ("multi30k_de_en", "multi30k_policy_on_tatoeba_average", "multi30k_policy_on_tatoeba_online")
    ]
    shown = f"off by {errors[0]:.3f} on average. On other data it is off by {errors[1]:.2f}, and in online mode by "
    assert shown + f"{errors[2]:.4f}" in README


def test_the_frontier() -> None:
    def above(folder: str, student: str, budget: float) -> str:
        wanted = {"line": f"{student}, learned", "budget": budget, "metric": "bleu", "cost": "parameters"}
        rows = load(folder, "frontier")["versus"]
        row = next(row for row in rows if all(row[name] == value for name, value in wanted.items()))
        assert row["claimed"] and row["p_holm"] < 0.05 and row["low"] > 0
        return f"{row['difference']:+.2f}"

    multi30k = [above("frontier_multi30k_de_en", "medium", budget) for budget in (0.1, 0.2)]
    tatoeba = [above("frontier_tatoeba", "large", budget) for budget in (0.1, 0.2)]
    assert f"Multi30k {', '.join(multi30k)} BLEU at use 0.1, 0.2; Tatoeba {', '.join(tatoeba)}." in README


def test_speed() -> None:
    folders = [
        ("speed_epyc_228m_int8_batch_1", 1),
        ("speed_epyc_228m_int8", 8),
        *(("speed_epyc_109m_int8", n) for n in (1, 8)),
    ]
    shown = "with 228M parameters {:.2f} times at batch 1 and {:.2f} at batch 8, with 109M {:.2f} and {:.2f}. "
    before = [(folder.replace("epyc", "random"), size) for folder, size in folders]
    shown += "On another processor {:.2f}, {:.2f}; {:.2f}, {:.2f}, without llama.cpp."
    shown = shown.format(*(speedup(*each) for each in (*folders, *before)))
    assert shown in README
    alone, rounded, ours = (
        tokens("speed_embedded_threads_1", 1, name) for name in ("ct2-teacher", "ct2-teacher-int8", "deferral")
    )
    assert f"at {alone:,} tokens a second, in int8 at {rounded:,}, where our deferral writes {ours}" in README
    of = [
        tokens("speed_random_35m_int8_threads_1", n, name) for n in (1, 8) for name in ("ct2-teacher-int8", "deferral")
    ]
    assert f"it is {of[0]} against {of[1]}, at batch 8 {of[2]:,} against {of[3]}." in README
