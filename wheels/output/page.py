"""Pages that stand alone: one look, light and dark, no script and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wheels.files import write_bytes
from wheels.output.visible import html

PAPER, INK = "#ffffff", "#222222"
DARK_PAPER, DARK_INK = "#17181a", "#dddddd"
CSS = f"""
:root{{color-scheme:light dark;--paper:{PAPER};--ink:{INK};--pale:#666;--line:#ddd;--mark:#ffe1cf;--marked:#7a2e00;
--for:230,110,30;--against:60,120,200}}
@media(prefers-color-scheme:dark){{:root{{--paper:{DARK_PAPER};--ink:{DARK_INK};--pale:#9a9da3;--line:#3a3c40;
--mark:#5a2a10;--marked:#ffd9c2}}}}
body{{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2.5rem auto;
padding:0 1.2rem;overflow-wrap:break-word}}
h1{{font-size:1.6rem;line-height:1.25;margin:0 0 1rem}}h2{{font-size:1.15rem;margin:2.6rem 0 .5rem}}
p,ul,dl,section{{max-width:46rem}}.lead,.text{{font-size:1.08rem}}
.pale,.source,.cost,.target{{color:var(--pale);font-size:.92rem}}
a{{color:inherit}}code{{font-size:.86em;overflow-wrap:anywhere}}summary{{cursor:pointer}}
dl{{display:grid;grid-template-columns:fit-content(11rem) 1fr;gap:.15rem 1.2rem;margin:0 0 1.6rem}}
dt{{color:var(--pale)}}dd{{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere;white-space:pre-wrap}}
section{{border-left:3px solid var(--line);padding:.1rem 0 .1rem 1rem;margin:1.4rem 0}}
section p{{margin:.25rem 0;white-space:pre-wrap;overflow-wrap:anywhere}}section dl{{margin:0}}
span{{border-radius:3px;padding:.05em .1em}}
section b,dd b{{font-weight:650;text-decoration:underline 2px;text-underline-offset:.2em}}
mark{{background:var(--mark);color:var(--marked);border-radius:3px;box-shadow:inset 0 -2px #d55e00}}
.wide{{overflow-x:auto;margin:1rem 0}}.wide img{{display:block;width:100%;min-width:34rem;height:auto}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;line-height:1.35}}
th,td{{padding:.3rem .55rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:baseline}}
th{{font-weight:600;vertical-align:bottom;border-bottom:2px solid var(--line)}}
th:first-child,td:first-child{{text-align:left;padding-left:0;position:sticky;left:0;background:var(--paper)}}
td small{{display:block;color:var(--pale);font-size:.8em;font-weight:400;white-space:pre-line}}
td{{white-space:nowrap}}td.pale{{color:var(--pale)}}td b{{font-weight:650}}
@media(max-width:40rem){{body{{margin:1.2rem auto;padding:0 .9rem}}th,td{{padding:.3rem .4rem}}td{{white-space:normal}}
dl{{grid-template-columns:1fr;gap:0}}dd{{margin-bottom:.4rem}}}}
"""
PIXEL = 0.55
"""Pixels of a page for one of a picture, whose header holds its width (https://www.w3.org/TR/png-3/#11IHDR)."""
# The policy lets a browser load and run nothing, should an escape ever be forgotten.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """A picture as PNG, for light and for dark pages."""

    light: bytes
    dark: bytes

    def write(self, folder: Path, name: str) -> None:
        """Write `NAME.png` and `NAME-dark.png`."""
        write_bytes(folder / f"{name}.png", self.light)
        write_bytes(folder / f"{name}-dark.png", self.dark)


def page(title: str, body: Iterable[str], heading: str = "") -> str:
    """Return a page.

    Args:
        title: its name, as text.
        body: its parts, as HTML.
        heading: its first line as HTML, if that has more than the title.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{heading or html(title)}</h1>\n" + "\n".join(part for part in body if part) + "\n</body>\n</html>\n"
    )


def facts(values: Mapping[str, str]) -> str:
    """Return names, as text, with their values, as HTML."""
    return (
        "<dl>\n"
        + "\n".join(f'<dt>{html(name)}</dt><dd dir="auto">{value}</dd>' for name, value in values.items())
        + ("\n</dl>")
    )


def image(alt: str, picture: Picture) -> str:
    """Return a picture that is part of the page and follows its theme, its letters as large as those of any other."""
    width = int.from_bytes(picture.light[16:20], "big") * PIXEL
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}" for png in (picture.light, picture.dark)
    )
    return (
        f'<div class="wide"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{html(alt)}" style="max-width:{width:.0f}px" src="{light}"></picture></div>'
    )


def bullets(items: Sequence[str]) -> str:
    """Return a list of items, as HTML."""
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
