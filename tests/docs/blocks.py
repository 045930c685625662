"""The code blocks of the pages, the README and CONTRIBUTING."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "text"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, whatever stands behind its name."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands_of(text: str) -> list[list[str]]:
    """Return the arguments of every `wheels COMMAND ...` in a page: between backticks, or in a block of shell."""
    shell = "\n".join(blocks_of(text, "sh"))
    inline = re.findall(r"`(wheels [a-z][^`\n]* [^`\n]*--[^`\n]*)`", text)
    found = inline + re.findall(r"(?:^|&& )(wheels [a-z].*)$", shell, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in found]
