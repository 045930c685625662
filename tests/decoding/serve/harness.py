"""A server on the loopback, in a thread of the test's own process."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

from wheels.decoding.serve.app import make_app
from wheels.decoding.serve.config import ServeConfig
from wheels.decoding.serve.run import listen
from wheels.decoding.serve.service import Service
from wheels.models.artefact import Artefact
from wheels.secret import Secret

TEXTS = [
    "Vergiss nicht, das Licht auszumachen.",
    "Das Fenster ist kaputt, wir müssen es heute noch reparieren.",
    "Die Kinder spielen im Garten, obwohl es schon den ganzen Tag regnet.",
]
SECONDS = 30
"""Longer than anything here takes on a busy machine."""


@dataclass
class Served:
    """A running server, and clients of it."""

    service: Service
    server: uvicorn.Server
    url: str
    key: str = ""

    @property
    def client(self) -> openai.OpenAI:
        plain = openai.DefaultHttpxClient(verify=False)  # reading the certificates takes longer than an answer
        url, key = f"{self.url}/v1", self.key or "none"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=SECONDS, http_client=plain)

    @property
    def http(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx2.Client(base_url=self.url, timeout=SECONDS, headers=headers, verify=False)

    def post(self, body: Any, path: str = "/v1/completions") -> httpx2.Response:
        with self.http as http:
            return http.post(path, json=body)

    def body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.service.name, "prompt": TEXTS[0], **more}

    def idle(self) -> bool:
        """Whether no text is left anywhere."""
        lanes = self.service.worker.lanes.values()
        slots = [each for lane in lanes for each in lane.engine.texts.sequences]
        return not self.service.texts and not any(lane.choices or lane.busy for lane in lanes) and not any(slots)


def until(condition: Any) -> None:
    """Wait for a condition."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@contextlib.contextmanager
def served(artefact: Artefact, key: str = "", **settings: Any) -> Iterator[Served]:
    config = ServeConfig(port=0, **{"stream_interval": 0.0} | settings)
    listening = listen(config)
    service = Service(artefact, config)
    service.worker.start()
    options = uvicorn.Config(make_app(service, Secret(key)), log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started)
        yield Served(service, server, f"http://127.0.0.1:{listening.getsockname()[1]}", key)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(SECONDS)
        service.worker.close()
        service.worker.join(SECONDS)
        assert not thread.is_alive() and not service.worker.is_alive()


@pytest.fixture(scope="session")
def embedded() -> Artefact:
    return Artefact.load()


@pytest.fixture(scope="module")
def server(embedded: Artefact) -> Iterator[Served]:
    with served(embedded, batch_size=8, queue=16, longest_output=200, body_limit=1 << 16) as running:
        yield running
