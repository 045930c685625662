from typing import Any, get_type_hints

import numpy as np
import pytest

from wheels.envs.settings import Settings, SettingsKeywords, Start, draw_start
from wheels.errors import WheelsError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": 20}, r"budget must be in \[0, 1\], got 20; did you mean 0.2"),
        ({"budget": (0.1, float("nan"))}, r"budget must be in \[0, 1\], got nan"),
        ({"budget": ()}, "budget must be a share .* got none"),
        ({"actions": "flatt"}, "actions must be one of factorised, flat, got 'flatt'; did you mean 'flat'"),
        ({"mode": "hard"}, "mode must be one of average, strict, episode, got 'hard'"),
        ({"observed": ("feature",)}, "observed must be one of features, .*, got 'feature'; did you mean 'features'"),
        ({"observed": "features"}, "observed must be a tuple of names, of features, .*, got 'features'"),
        ({"reward_mode": "late"}, "reward_mode must be one of step, episode, got 'late'"),
        ({"reward": "regret+chrf"}, "reward must be one of logprob, regret, terminal, got 'chrf'"),
        ({"reward": "regret+regret"}, "reward must name each part once, got 'regret\\+regret'"),
        ({"reward": "terminal", "metric": "chrff"}, "metric must be one of .* did you mean 'chrf'"),
        ({"price": -1.0}, "price must be at least 0"),
        ({"burst": -1}, "burst must be at least 0, got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 2**31}, "max_new_tokens must be at most 1048576, got 2147483648"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens must be a whole number, got 2\.5"),
        ({"price": float("inf")}, "price must be at most .*, got inf"),
        ({"terminal_scale": float("nan")}, "terminal_scale must be a number, got nan"),
        ({"budget": True}, r"budget must be a number in \[0, 1\], got True"),
        ({"charge_price": "yes"}, "charge_price must be True or False, got 'yes'"),
        ({"reward": None}, "reward must be one of logprob, .*, or a sum of them, got None"),
        ({"sampling": 0.7}, r"sampling must be a Sampling, .*, got 0\.7"),
        ({"max_tokens": 5}, "unknown setting 'max_tokens'; .* did you mean 'max_new_tokens'"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(WheelsError, match=message):
        Settings.of(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indx": 1}, "unknown option 'indx'; .* did you mean 'index'"),
        ({"index": 4}, r"option index must be in \[0, 3\], got 4"),
        ({"index": -1}, r"option index must be in \[0, 3\], got -1"),
        ({"budget": 2}, r"option budget must be in \[0, 1\], got 2"),
        ({"price": -0.5}, "option price must be at least 0, got -0.5"),
        ({"index": 1.5}, r"option index must be a whole number, got 1\.5"),
        ({"seed": 2**63}, "option seed must be at most .*, got 9223372036854775808"),
        ({"price": float("nan")}, "option price must be a number, got nan"),
    ],
)
def test_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WheelsError, match=message):
        draw_start(np.random.default_rng(0), 4, Settings(), options)


def test_a_reward_is_a_sum_of_parts() -> None:
    assert Settings(reward="regret").parts == ("regret",)
    assert Settings(reward="regret+terminal").parts == Settings(reward=" regret + terminal").parts
    assert Settings(reward="regret + terminal").parts == ("regret", "terminal")


def test_options_fix_what_is_drawn_and_leave_the_next_draws_alone() -> None:
    settings = Settings(budget=(0.1, 0.5), price=0.3)
    free, fixed = np.random.default_rng(7), np.random.default_rng(7)
    draw_start(free, 100, settings, {})
    given = {"index": 3, "seed": 4, "budget": 0.9, "price": 2.0}
    assert draw_start(fixed, 100, settings, given) == Start(3, 4, 0.9, 2.0)
    assert draw_start(free, 100, settings, {}) == draw_start(fixed, 100, settings, {})


def test_each_episode_draws_a_budget_of_the_grid() -> None:
    generator = np.random.default_rng(0)
    starts = [draw_start(generator, 5, Settings(budget=(0.1, 0.5)), {}) for _ in range(40)]
    assert {start.budget for start in starts} == {0.1, 0.5}
    assert {start.index for start in starts} == set(range(5))


def test_the_keywords_of_the_environments_are_the_fields_of_the_settings() -> None:
    assert get_type_hints(SettingsKeywords) == get_type_hints(Settings)
