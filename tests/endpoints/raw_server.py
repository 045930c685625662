"""A server of bytes: what an HTTP server of the library would not send."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable


class RawServer:
    """Reads each request as a whole, and has a function of its connection and its JSON answer it."""

    def __init__(self, answer: Callable[[socket.socket, dict], object]) -> None:
        self.answer = answer
        self.heads: list[str] = []
        self.bodies: list[dict] = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection: socket.socket) -> None:
        with connection:
            try:
                head, body = self.read(connection)
                request = json.loads(body)
                self.heads.append(head)
                self.bodies.append(request)
                self.answer(connection, request)
            except OSError:
                pass  # the client has gone

    @staticmethod
    def read(connection: socket.socket) -> tuple[str, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        while len(body) < int(lengths[0]):
            body += connection.recv(65536)
        return head.decode("latin-1"), body


def completion(content: object = "label", reason: object = "stop", **more: object) -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"index": 0, "finish_reason": reason, "message": message}]}).encode()


def response(body: bytes, code: int = 200, *headers: str) -> bytes:
    """The bytes of a whole answer."""
    head = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body
