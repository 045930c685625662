"""A headless Chromium, driven over the pipe of its DevTools protocol: keys, mouse, pictures, what the page holds."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 60
"""Longer than anything here takes on a busy machine."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


class Page:
    """One tab. Commands go out, answers and events come back, each ended by a zero byte."""

    def __init__(self, into: int, out: int) -> None:
        self.into, self.out, self.buffer, self.ids = into, out, b"", itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session = ""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Carry out one command."""
        number = next(self.ids)
        command = {"id": number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.into, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            assert select.select([self.out], [], [], SECONDS)[0], "the browser is silent"
            part = os.read(self.out, 1 << 16)
            assert part, "the browser has ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def go(self, url: str) -> None:
        self("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def size(self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=features)

    def read(self, expression: str) -> Any:
        """Evaluate what a user could see; nothing is changed by it."""
        told = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := self.read(expression)):
            assert time.monotonic() < end, f"never came true: {expression}\n{self.read('document.body.innerText')}"
            time.sleep(0.02)
        return found

    def type(self, text: str) -> None:
        self("Input.insertText", text=text)

    def press(self, key: str, *, control: bool = False) -> None:
        told = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 2 * control}
        text = {"text": "\r"} if key == "Enter" and not control else {}
        self("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self("Input.dispatchKeyEvent", type="keyUp", **told)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll to an element; return its left, top, width and height."""
        told = f"(e => {{e.scrollIntoView({{block: 'nearest'}}); const b = e.getClientRects()[0]; \
            return [b.left, b.top, b.width, b.height]}})(document.querySelector({json.dumps(selector)}))"
        left, top, width, height = self.read(told)
        return left, top, width, height

    def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "hover" else {}
        name = {"press": "mousePressed", "release": "mouseReleased"}.get(kind, "mouseMoved")
        self("Input.dispatchMouseEvent", type=name, x=x, y=y, **pressed)

    def hover(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        self.mouse("hover", left + width / 2, top + height / 2)

    def click(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        for kind in ("press", "release"):
            self.mouse(kind, left + width / 2, top + height / 2)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag along an element, from one share of its width to another."""
        left, top, width, height = self.box(selector)
        xs = [left + width * (start + (end - start) * step / 8) for step in range(9)]
        for kind, x in [("press", xs[0]), *[("drag", x) for x in xs], ("release", xs[-1])]:
            self.mouse(kind, x, top + height / 2)

    def picture(self, path: Path) -> None:
        data = self("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def said(self, method: str) -> list[dict[str, Any]]:
        """Return the events of one kind, such as `Network.requestWillBeSent`."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser of its own, that ends with the block."""
    assert CHROMIUM is not None
    their_in, into = os.pipe()
    out, their_out = os.pipe()
    # The protocol's pipes are file descriptors 3 and 4.
    shell = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
    arguments = ["bash", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    running = subprocess.Popen(
        arguments, pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(into, out)
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(into, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        os.close(into)
        os.close(out)
