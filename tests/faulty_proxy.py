# SPDX-License-Identifier: Apache-2.0
"""A proxy before a store, which answers 503, cuts connections, or loses replies as a test tells it."""

from __future__ import annotations

import http.client
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What may happen to a request: the store says it is busy, or that another request is in the way; it is not
# sent; it is sent, and the reply is lost.
BUSY, CONFLICT, CUT, REPLY_LOST = "busy", "conflict", "cut", "reply lost"

_CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>"

# Status, headers, content.
Reply = tuple[int, list[tuple[str, str]], bytes]

_OF_A_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Proxy:
    """The proxy.

    :param fate: asked for each request, with its method and its path with the query; None: it goes through
    """

    def __init__(self, fate: Callable[[str, str], str | None]) -> None:
        self.fate = fate
        self.url = ""
        self.seen: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()

    def decide(self, method: str, path: str) -> str | None:
        """Return what becomes of a request."""
        with self._lock:
            fate = self.fate(method, path)
            self.seen.append((method, path, fate))
            return fate

    def fates(self) -> list[str]:
        """Return what has become of the requests that did not go through."""
        return [fate for _, _, fate in self.seen if fate is not None]


@contextmanager
def proxied(
    target: str, fate: Callable[[str, str], str | None], handler: type[Handler] | None = None
) -> Iterator[Proxy]:
    """Run a proxy before the server at a URL; its own has the same path.

    :param handler: what answers requests; default :class:`Handler`
    """
    parts = urlsplit(target)
    proxy = Proxy(fate)
    server = _Server(proxy, parts.hostname or "", parts.port or 80, handler or Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}{parts.path}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy, host: str, port: int, handler: type[Handler]) -> None:
        self.proxy = proxy
        self.upstream = host, port
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that is gone, such as a process that was killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers a request as its fate is."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        body = self._body()
        fate = self.server.proxy.decide(self.command, self.path)
        if fate == CUT:
            self.close_connection = True
        elif fate == BUSY:
            self._answer(503, [("Content-Type", "text/plain")], b"busy")
        elif fate == CONFLICT:
            self._answer(409, [("Content-Type", "application/xml")], _CONFLICT)
        else:
            reply = self.ask(body)
            if fate == REPLY_LOST:
                self.close_connection = True
            else:
                self._answer(*reply)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def ask(self, body: bytes) -> Reply:
        """Return the server's reply to this request."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_A_HOP}
        headers["Content-Length"] = str(len(body))
        return self.forward(self.command, self.path, body, headers)

    def forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        """Return the server's reply to any request."""
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            upstream.request(method, path, body, headers)
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        is_head = self.command == "HEAD"
        for name, value in headers:
            if name.lower() not in _OF_A_HOP and (is_head or name.lower() != "content-length"):
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return
