"""The page at `/`: its own script and style are all that a browser may run; and what it must know of the models."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.choices import BUDGETED
from wheels.decoding.methods.rules import RULES
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact, embedded_folder

if TYPE_CHECKING:
    from wheels.decoding.serve.service import Service

EXAMPLE = "Er hat sein Auto verkauft, weil er Geld brauchte."
"""What the page begins with where the embedded pair is served."""
STEPS = 100
"""Budgets that the page can ask for, between 0 and 1."""


def add_page(app: FastAPI) -> None:
    """Add the page. It needs no key, for it holds nothing: its requests ask the user for one."""
    folder = resources.files("wheels.decoding.serve")
    markup, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    content = markup.replace("<script></script>", f"<script>\n{script}</script>")
    headers = {
        "Content-Security-Policy": policy(content),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers=headers)


def policy(content: str) -> str:
    """Return the policy under which a browser runs this page's own script and style, and asks this server alone."""
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def settings_of(service: Service) -> dict[str, Any]:
    """Return what can be asked of the models, and what holds where a request says nothing."""
    default, artefact = service.default, service.artefact
    mode = default.budget_mode
    budgets = {rule: budgets_of(artefact, rule, mode) for rule in service.known_rules}
    rules = [
        {"name": rule, "label": RULES[rule].label, "budgets": found}
        for rule, found in budgets.items()
        if len(found) > 2  # with 0 and 1 alone there is nothing to choose
    ]
    return {
        "method": default.method if default.method in BUDGETED else "deferral",
        "teacher_budget": GenerateConfig().budget if default.budget is None else default.budget,
        "rule": default.rule,
        "rules": rules,
        "max_tokens": service.config.max_new_tokens,
        "priced": service.prices is not None,
        "example": EXAMPLE if artefact.folder == embedded_folder() else "",
    }


def budgets_of(artefact: Artefact, rule: str, mode: str) -> list[float]:
    """Return the budgets that a rule can be asked for: thresholds are known only between those that were calibrated."""
    found = []
    for step in range(STEPS + 1):
        try:
            calibrated(artefact, rule, step / STEPS, mode=mode)
        except WheelsError:
            continue
        found.append(step / STEPS)
    return found
