"""Servers on this machine that speak the chat completions protocol: one that says what a test tells it to, and a model's."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.conftest import ROOT, quiet

AT_ONCE = {"retry-after-ms": "1"}


def chat(content):
    """A chat completion that says `content`, as a server's (status, headers, body)."""
    message = {"role": "assistant", "content": content}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"message": message}]}
    return 200, {}, json.dumps(body).encode()


class Endpoint(ThreadingHTTPServer):
    """Answers each request with `answer(number of the request, body)`; keeps what it was sent and how many came at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = lambda number, body: chat('{"consistency": 0.75}')
        self.received, self.headers, self.now, self.most = [], [], 0, 0
        self.lock, self.over = threading.Lock(), threading.Event()
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.received.append(body)
            server.headers.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            number = len(server.received)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            status, headers, answer = server.answer(number, body)
        finally:
            with server.lock:
                server.now -= 1
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(answer), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(model, log):
    """`transformers serve` of the checkpoint `model` in a process of its own, until the block ends: its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=quiet(), stdout=out, stderr=out)
    try:
        for _ in range(240):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)
