"""`wheels serve`: load the models, listen, and end without breaking off what was begun."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from wheels.decoding.commands.generate import load_artefact
from wheels.decoding.models.backends import use_backend
from wheels.decoding.serve.config import ServeConfig
from wheels.errors import WheelsError
from wheels.output.streams import remark
from wheels.secret import Secret, check_key, read_secret
from wheels.threads import set_threads

MISSING = "`wheels serve` needs FastAPI and uvicorn: pip install 'training-wheels[serve]'"
BACKLOG = 2048
"""Connections that may wait to be accepted."""
GRACE = 10
"""Seconds that answers have to leave after the second signal."""


def run(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C; see `ServeConfig`.

    The first signal lets everything end that was begun, the second ends it with an error, the third at once.

    Raises:
        WheelsError: where a package is missing, the key cannot be read, or the address is taken.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError:
        raise WheelsError(MISSING) from None
    from wheels.decoding.serve.app import make_app
    from wheels.decoding.serve.service import Service

    use_backend(config.backend)
    key = read_key(config)
    listening = listen(config)
    artefact = load_artefact(config.default)
    set_threads(config.threads, artefact.pair)
    service = Service(artefact, config)
    gc.collect()
    gc.freeze()  # the libraries' objects stay: looking through them at each collection would hold up all streams
    service.worker.start()
    settings = uvicorn.Config(make_app(service, key), log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(settings)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    remark(f"serving {service.name!r} at http://{shown}:{port}/v1; Ctrl-C ends it")
    with closing(service, server):
        server.run(sockets=[listening])
    remark("the server has ended")


def read_key(config: ServeConfig) -> Secret:
    """Return the key that clients must send; an empty one where there is none."""
    if config.api_key_file is not None:
        try:
            value = Path(config.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise WheelsError(f"cannot read the key in {config.api_key_file}: {error}") from None
        return Secret(check_key(value, config.api_key_file))
    return read_secret(config.api_key_env, "--api-key-env") if config.api_key_env is not None else Secret()


def listen(config: ServeConfig) -> socket.socket:
    """Return a socket that listens, before minutes are spent on loading models.

    Raises:
        WheelsError: where the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise WheelsError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from None
    listening.listen(BACKLOG)
    return listening


@contextlib.contextmanager
def closing(service: Any, server: Any) -> Iterator[None]:
    """Let signals drain the server, then abort what is left, and end the models' thread at last."""
    signals = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        server.should_exit = True
        if signals == 1:
            service.drain()
            remark(f"ending: {service.texts} texts are finished first; a second signal stops them")
        elif signals == 2:
            service.abort()
            timer = threading.Timer(GRACE, setattr, (server, "force_exit", True))
            timer.daemon = True
            timer.start()
        else:
            server.force_exit = True

    server.capture_signals = contextlib.nullcontext  # uvicorn's own takes only a second Ctrl-C, and raises it again
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        service.worker.close()
        service.worker.join(GRACE)
