import pytest

from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teacher_budget": 20}, r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2\?"),
        (
            {"budget_mode": "strickt"},
            "budget_mode must be one of average, online, strict, got 'strickt'; did you mean 'strict'",
        ),
        ({"rule": "entropie"}, "rule must be one of .*, got 'entropie'; did you mean 'entropy'"),
        ({"format": "xml"}, "format must be one of text, json, parquet, html, got 'xml'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0.0, got -1.0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 0.9}, "top_p 0.9 has no effect at temperature 0; set a temperature above 0 to sample"),
        ({"color": "always", "format": "json"}, "color 'always' is for format 'text', got format 'json'"),
        ({"text": "x", "input": "-"}, "give the text or --input, not both"),
        ({"method": "speculativ"}, "method must be one of .*, got 'speculativ'; did you mean 'speculative'"),
        (
            {"method": "bild", "teacher_budget": 0.2},
            "method 'bild' verifies every token and keeps no .*, got 0.2; leave",
        ),
        (
            {"method": "speculative", "budget_mode": "online"},
            "budget_mode 'online' keeps a teacher budget, and method 'speculative' has none; leave it out, or use one",
        ),
        ({"method": "bild", "budget_mode": "strict"}, "budget_mode 'strict' keeps a teacher budget, and method 'bild'"),
        ({"method": "take-back", "verify_end": True}, "verify_end is for methods verified and priced, got .* 'take-b"),
        ({"draft_length": 3}, "draft_length and tolerance are for methods that verify, got method 'deferral'"),
        ({"tolerance": 0.1}, "draft_length and tolerance are for methods that verify, got method 'deferral'"),
        (
            {"method": "bild", "adaptive_draft": True},
            "adaptive_draft is for methods speculative and lookup, got .* 'bild'",
        ),
        ({"method": "verified", "draft_length": 0}, "draft_length must be at least 1, got 0"),
        ({"on_error": "ignore"}, "on_error must be one of stop, skip, got 'ignore'"),
    ],
)
def test_generate_refuses(values, message):
    with pytest.raises(WheelsError, match=message):
        GenerateConfig(**values)


def test_a_budget_is_kept_only_where_a_rule_calls():
    assert GenerateConfig().budget == GenerateConfig(method="verified").budget == 0.2
    assert GenerateConfig(teacher_budget=0.0).budget == 0.0
    assert GenerateConfig(method="speculative").budget is None


def test_generate_samples_where_it_is_asked_to():
    config = GenerateConfig(temperature=0.7, top_k=50, top_p=0.9)
    assert (config.temperature, config.top_k, config.top_p) == (0.7, 50, 0.9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budgets": (0.1, 10.0)}, r"budgets must be in \[0, 1\], got 10.0; did you mean 0.1\?"),
        ({"budgets": ()}, "budgets must hold at least one value, got none"),
        ({"rules": ()}, "rules must hold at least one value, got none"),
        ({"rules": ("learned", "x")}, "rules must be one of .*, got 'x'"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
)
def test_calibrate_refuses(values, message):
    with pytest.raises(WheelsError, match=message):
        CalibrateConfig(model="m", data="d", **values)


def test_calibrate_puts_budgets_in_order_and_drops_repetitions():
    config = CalibrateConfig(model="m", data="d", budgets=(0.5, 0.1, 0.5), rules=("entropy", "random", "entropy"))
    assert config.budgets == (0.1, 0.5)
    assert config.rules == ("entropy", "random")


LEAST = {
    "calibrate": {"limit": 1, "seeds": 1, "batch_size": 1, "max_new_tokens": 1, "threads": 1},
    "generate": {"draft_length": 1, "batch_size": 1, "max_new_tokens": 1, "threads": 1, "top_k": 0, "seed": 0},
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, each in LEAST.items() for name in each])
def test_the_least_value_is_taken_and_one_less_is_not(command, name):
    make, given = {
        "calibrate": (CalibrateConfig, {"model": "m", "data": "d"}),
        "generate": (GenerateConfig, {"method": "verified", "temperature": 1.0}),
    }[command]
    least = LEAST[command][name]
    assert getattr(make(**given, **{name: least}), name) == least
    with pytest.raises(WheelsError, match=f"{name} must be at least {least}, got {least - 1}"):
        make(**given, **{name: least - 1})
