"""What goes wrong at a server: a temporary fault, a refusal of one request, or a refusal of all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from wheels.errors import WheelsError

AGAIN = frozenset({408, 409, 424, 425, 429, 498})
"""The codes below 500 after which the same request may succeed; each from 500 on is one too (RFC 9110, 15.6)."""
OF_ONE = frozenset({400, 413, 422, 451})
"""The codes that may speak of this request alone: it is malformed, too long, or what it says is not allowed."""

_POLICY = re.compile(
    r"content[ _-]?(?:filter|policy|management|moderation|exists? risk)|moderat|flagged|responsible ?ai|inappropriate"
    r"|safety|data_?inspection",
    re.IGNORECASE,
)
_PASSES = re.compile(r"rate[ _-]?limit|overloaded|time[ _-]?out|timed out|temporar|try again", re.IGNORECASE)
_QUOTA = re.compile(r"insufficient[ _](?:quota|balance|credit|funds)|billing|no credit", re.IGNORECASE)
_OF_ALL = re.compile(
    r"model_not_found|(?:invalid|unknown|no such|find|find the)[ _]model|\bmodel\)$|api[ _-]?key"
    r"|unsupported[ _](?:parameter|value)|unrecognized|chat[ _]template"
    r"|\bmodel\b.{0,80}\b(?:not exist|not found|not (?:a )?valid|not available|not supported|unavailable|deprecated)",
    re.IGNORECASE | re.DOTALL,
)


class RequestFailed(WheelsError):
    """A request without an answer after all attempts; a later run may get one."""


class RequestRefused(WheelsError):
    """A request that the server always refuses; it may accept others."""


class ServerRefused(WheelsError):
    """A refusal of every request: wrong key, address or model."""


class AnswerUnusable(WheelsError):
    """An answer that arrived whole, and holds nothing that can be used; to ask again would be to pay again."""


class Again(Exception):
    """An attempt with a temporary failure; `wait` is the server's requested delay in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def fault_of(code: int, said: str) -> type[Exception]:
    """Return the class of a status code other than 2xx: `Again`, `RequestRefused` or `ServerRefused`."""
    if code == 429 and _QUOTA.search(said):
        return ServerRefused
    if code in AGAIN or code >= 500:
        return Again
    if code in OF_ONE | {403} and _POLICY.search(said):
        return RequestRefused
    return RequestRefused if code in OF_ONE and not _OF_ALL.search(said) else ServerRefused


def message_of(body: bytes) -> str:
    """Return a server's error message: the message and codes in its JSON, else the text itself."""
    try:
        whole: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return _message(whole)


def _message(whole: Any) -> str:
    """Return the message of an error in JSON."""
    error = whole.get("error") or whole if isinstance(whole, Mapping) else whole
    if isinstance(error, Mapping) and isinstance(error.get("detail"), list):  # FastAPI's, which repeats the request
        told = [one for one in error["detail"] if isinstance(one, Mapping)]
        return "; ".join(f"{one.get('msg')} ({one.get('type')}, {one.get('loc')})" for one in told)
    if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
        return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    codes = [str(error[name]) for name in ("code", "type", "param") if isinstance(error.get(name), str)]
    return error["message"] + (f" ({', '.join(codes)})" if codes else "")


def raise_error_of(whole: Any) -> NoReturn:
    """Raise the error of a reply that came with a good code and holds no completion."""
    error, said = mapping(whole).get("error"), _message(whole)
    number = str(mapping(error).get("code"))
    code = int(number) if re.fullmatch("[1-9][0-9][0-9]", number) else 503 if _PASSES.search(said) else 400
    kind = fault_of(code, said)
    raise kind(f"answers with {f'code {code}' if error else 'no completion'}: {said}")


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object of JSON, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
