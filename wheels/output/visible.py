"""Untrusted text made safe to show: no control characters for terminals, no markup for pages."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

# Controls of ASCII and C1 (ESC, BEL, CSI ...) but tab and line feed; what reorders the text around it (Unicode's
# bidirectional embeddings, overrides and isolates, https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing);
# halves of surrogate pairs.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return `text` with control characters replaced."""
    return _OBEYED.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return `text` on one line, for errors and for one output a line; see `visible`."""
    return visible(" ".join(text.split()))


def html(text: str) -> str:
    """Return `text` for a page: `visible`, with its markup escaped."""
    return escape(visible(text))


def json_line(value: Any) -> str:
    """Return `value` as JSON on one line; characters that a terminal would obey are escaped."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
