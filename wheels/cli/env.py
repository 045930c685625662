"""`wheels env`: the machine, package versions, and what was measured to run models fastest here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wheels.config.fields import option
from wheels.environment import as_text, environment
from wheels.output.visible import json_line


@dataclass(frozen=True)
class EnvConfig:
    """The configuration of `wheels env`."""

    json: bool = option(False, "print one JSON object")


def run(config: EnvConfig) -> None:
    """Print the facts of this machine and its packages."""
    facts = environment() | {"passes": passes()}
    print(json_line(facts) if config.json else as_text(facts))


def passes() -> dict[str, Any]:
    """Return the milliseconds of each way to run a model that was measured here, the fastest first."""
    try:
        from wheels.decoding.models.kernel_times import PASSES, remembered
    except Exception:  # of a broken installation, which `environment` tells of
        return {}
    return {
        name.removeprefix(PASSES): [f"{way} {1000 * times[way]:.3g} ms" for way in sorted(times, key=times.__getitem__)]
        for name, times in remembered(PASSES).items()
    }
