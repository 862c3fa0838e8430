"""A real S3 server in a process of its own, and a proxy before it that loses, delays, repeats and
refuses."""

import atexit
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

BUCKET = "caches"
Fault = Callable[[str, str, int], str | None]
"""Of (method, path, number of the request): None, or one of

- `drop`: do it and lose the response, `mute`: do it and never answer, `hang`: never answer, undone
- `late`: do it after a second, `repeat`: do it twice, `wrong`: give another body of the same length
- `refuse` (503), `deny` (403), `skew` (403 of a clock), `conflict` (409 of two writers), `taken`
  (412), `removed` (404): undone
- `regret`: do it and say 500
- `careless`: do it as if no condition had been asked for
"""
_CODES = {
    "skew": (
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
    "taken": (
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold.",
    ),
    "removed": (404, "NoSuchKey", "The specified key does not exist."),
    "conflict": (
        409,
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation.",
    ),
}


@contextmanager
def s3_server() -> Iterator[int]:
    """Lend a server, with an empty bucket and nothing else, and yield its port.

    A process of tests starts another only while all that it has are lent: a start takes a second.
    """
    port = _idle.pop() if _idle else _started()
    _ask(port, "moto-api/reset", "POST")
    _ask(port, BUCKET, "PUT")
    yield port
    _idle.append(port)  # not after a failure, which may be the server's


_idle: list[int] = []
"""Ports of servers that run and are not lent."""


def _ask(port: int, path: str, method: str) -> None:
    with urlopen(Request(f"http://127.0.0.1:{port}/{path}", method=method)):
        pass


def _started() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(_ended, process)
    _wait_for(port, process)
    return port


def _ended(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def environment(port: int) -> dict[str, str]:
    """Return the variables that lead S3 clients to the server."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to the server on `port`, with the faults that `fault` decides."""

    daemon_threads = True

    def __init__(self, port: int, own: int = 0) -> None:
        super().__init__(("127.0.0.1", own), _Handler)
        self.upstream, self.fault = port, lambda method, path, number: None
        self.count: dict[str, int] = {}
        self.log: list[tuple[str, str]] = []
        self.injected: list[str] = []
        self.lock = threading.Lock()
        self.is_closed = threading.Event()

    fault: Fault

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up, as killed ones do."""

    def decide(self, method: str, path: str) -> str | None:
        with self.lock:
            number = self.count[method] = self.count.get(method, 0) + 1
            self.log.append((method, path))
            fault = self.fault(method, path, number)
            if fault:
                self.injected.append(fault)
            return fault


@contextmanager
def faulty_proxy(port: int, own: int = 0) -> Iterator[FaultyProxy]:
    """Run a proxy before the server on `port`, on a port of its own."""
    proxy = FaultyProxy(port, own)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.is_closed.set()
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.decide(self.command, self.path)
        if fault in ("refuse", "deny"):
            self._answer(503 if fault == "refuse" else 403, {}, b"")
            return
        if fault in _CODES:
            status, code, message = _CODES[fault]
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._answer(status, {"Content-Length": str(len(text))}, text.encode())
            return
        if fault == "hang":
            self.server.is_closed.wait()
            return
        if fault == "late":
            self.server.is_closed.wait(1.0)
        if fault == "careless":
            del self.headers["If-None-Match"]
        answer = self._upstream(body)
        if fault == "repeat":
            answer = self._upstream(body)
        if fault == "regret":
            answer = 500, {}, b""
        if fault == "wrong":
            status, headers, data = answer
            answer = status, headers, bytes(byte ^ 1 for byte in data)
        if fault == "mute":
            self.server.is_closed.wait()
            return
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(*answer)

    def _upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "connection"
            }
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = (
            headers.get("Content-Length", headers.get("content-length", "0"))
            if self.command == "HEAD"
            else str(len(body))
        )
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815 # the names that the server looks for

    def log_message(self, *args: Any) -> None:
        pass


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(
        f"the S3 server did not start (exit code {process.poll()}); is moto[server] installed?"
    )


@contextmanager
def environ(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
