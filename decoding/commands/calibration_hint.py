"""What to do where thresholds are missing, as a command that runs as it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wheels.config.parsing import as_command, build
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.methods.rules import KNOWN_RATE
from wheels.models.artefact import Artefact, embedded_folder

OF_TRAINING = ("data", "source", "target", "max_new_tokens", "dtype")
"""What a calibration takes from the settings that a model was trained with."""
OF_CALIBRATION = (*OF_TRAINING, "split", "limit", "teacher", "span", "device")
"""What it takes from the calibration before it."""


def calibration_hint(artefact: Artefact, rules: Sequence[str], budgets: Sequence[float] | None, seed: int) -> str:
    """Return the end of an error: the command that finds missing thresholds as those that are there were found.

    Args:
        artefact: the model that lacks them.
        rules: what is to be calibrated, as a command takes it.
        budgets: for which budgets; None: for the usual ones.
        seed: the highest seed of them.
    """
    if artefact.folder is None:
        return "; measure one by wheels.calibrate(model, rows, rules=[...]), or give a rule that was calibrated"
    if artefact.folder == embedded_folder():
        known = sorted({*KNOWN_RATE, *(point.rule for point in artefact.calibration.points)})
        return (
            f"; the embedded pair is calibrated for {', '.join(known)}: give one of these within its range, or measure "
            "a threshold by wheels.calibrate"
        )
    before, trained = artefact.calibration.config, artefact.config.get("trained", {}).get("settings", {})
    given = {name: before[name] for name in OF_CALIBRATION if name in before}
    given = given or {name: trained[name] for name in OF_TRAINING if name in trained}
    if "data" not in given:
        return f"; calibrate {artefact.folder} for it, by the command calibrate, on data that is not scored"
    wanted: dict[str, Any] = {"model": str(artefact.folder), "rules": list(rules)}
    wanted |= {"seeds": max(seed + 1, CalibrateConfig.seeds)} | ({} if budgets is None else {"budgets": list(budgets)})
    return f"; run `{as_command('wheels calibrate', build(CalibrateConfig, given | wanted))}`"
