"""Addresses of models: what they may be, and which of them are of this machine."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Any

from wheels.errors import WheelsError

if TYPE_CHECKING:
    import httpx2


def is_address(name: str | None) -> bool:
    """Whether a model is given by an address and not by a folder."""
    return name is not None and re.match(r"\s*[a-z][a-z0-9+.-]*://", name.casefold()) is not None


def endpoint_url(url: str, path: str) -> httpx2.URL:
    """Return the address of `path`, such as `/chat/completions`, under `url`, keeping its `?api-version=`.

    `url` is a server, an address with a version (`/v1`, `/v1beta/openai`) or a deployment in it, or the whole address.

    Raises:
        WheelsError: for what is no http(s) address, or one that holds a name, a key or another query.
    """
    import httpx2  # on demand: `--help` runs without

    shown = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])
    try:
        parts = httpx2.URL(url)
        labels = parts.raw_host.decode("ascii").rstrip(".").split(".")
    except (httpx2.InvalidURL, ValueError):
        raise WheelsError(f"an endpoint must be http(s)://host[:port]/..., got {shown!r}") from None
    named = ":" in parts.host or all(0 < len(label) < 64 and "%" not in label for label in labels)
    port = 1 if parts.port is None else parts.port
    if parts.scheme not in ("http", "https") or not named or not 0 < port < 65536:
        raise WheelsError(f"an endpoint must be http(s)://host[:port]/..., got {shown!r}")
    raw_path, _, query = parts.raw_path.decode("ascii").partition("?")
    version = re.fullmatch(r"(?:api-version=[\w.-]{1,40})?", query)
    if parts.userinfo or parts.fragment or version is None:
        raise WheelsError(
            "an endpoint must be a plain address, with no query but ?api-version=...; a key comes from an environment "
            "variable"
        )
    whole = raw_path.rstrip("/")
    if not whole.endswith(path):
        versioned = re.search(r"/v\d[^/]*(?:/|$)|/deployments/[^/]+$", whole)
        whole += path if versioned else f"/v1{path}"
    return parts.copy_with(raw_path=(whole + (f"?{query}" if query else "")).encode())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, however it is written."""
    name = host.rstrip(".").lower()
    if name in ("localhost", socket.gethostname().lower()) or name.endswith((".localhost", "localhost.localdomain")):
        return True
    try:
        address: Any = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(name))
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return bool(address.is_loopback or address.is_unspecified)
