"""A real HTTP server that answers like an OpenAI-compatible endpoint, and at random as a bad network does."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "500", "hang", "truncated", "hang after charging", "page")


class FaultyServer(ThreadingHTTPServer):
    """Counts what it charges: an item once per idempotency key, however often it is asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults=FAULTS, share=0.0, seed=0, delay=0.0, hang=0.6, answer=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.share, self.delay, self.hang = faults, share, delay, hang
        self.answer = answer or (lambda prompt: f"label of {prompt}")
        self.retry_after = "0.01"
        self.charged: dict[str, str] = {}
        self.completed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.random = random.Random(seed)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that was killed is no error of ours."""

    def __exit__(self, *args):
        self.shutdown()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, *args):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        key, prompt = self.headers["Idempotency-Key"], body["messages"][0]["content"]
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.requests.append({"path": self.path, "headers": headers, "body": body})
            fault = server.random.choice(server.faults) if server.random.random() < server.share else "none"
            server.seen[fault] += 1
        try:
            self.respond(server, fault, key, prompt)
        finally:
            with server.lock:
                server.at_once -= 1

    def respond(self, server, fault, key, prompt):
        time.sleep(server.delay)
        if fault == "hang":
            time.sleep(server.hang)
            self.close_connection = True
            return None
        if fault == "429":
            return self.send(429, b'{"error": "slow down"}', {"Retry-After": server.retry_after})
        if fault == "500":
            return self.send(server.random.choice((500, 502, 503, 504)), b"oops")
        if fault == "page":
            return self.send(200, b"<html>please log in</html>")
        if fault.isdigit():
            message = f"no: {self.headers.get('Authorization')}"
            return self.send(int(fault), json.dumps({"error": {"message": message}}).encode())
        # From here on the answer has been worked for: the item is charged, whether or not the answer arrives.
        with server.lock:
            assert server.charged.setdefault(key, prompt) == prompt, "one key, one item"
            server.completed[key] += 1
        message = {"role": "assistant", "content": server.answer(prompt)}
        content = json.dumps({"choices": [{"message": message}]}).encode()
        if fault == "hang after charging":
            time.sleep(server.hang)
            self.close_connection = True
            return None
        if fault == "truncated":
            self.close_connection = True
            return self.send(200, content[: len(content) // 2], length=server.random.choice((None, len(content))))
        return self.send(200, content)

    def send(self, code, content, headers=None, length=None):
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)
