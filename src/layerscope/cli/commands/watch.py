"""``layerscope watch``: a local web page that follows a training run."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from layerscope.errors import LayerscopeError, TargetNotFound, Unreadable, UsageError

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 32  # at a time
MAX_SECONDS = 60  # of one connection


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN.layerscope…")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port of the local web server; 0 chooses a free port.",
)
@click.option(
    "--refresh",
    type=click.IntRange(1, 3600),
    default=10,
    show_default=True,
    help="Seconds after which the browser reloads the page.",
)
def watch(runs: tuple[str, ...], port: int, refresh: int) -> int:
    """Follow a training run on a local web page.

    Serves the report of one or more histories that layerscope.Monitor writes, and updates it after every check. Only
    this machine can open the page. Press Ctrl-C to stop.

    \b
    Example:
      layerscope watch run.layerscope
    """
    for path in runs:
        if not Path(path).is_file():
            raise TargetNotFound(
                f"{path}: no such file; a training run creates it with layerscope.Monitor(model, path={path!r})"
            )
    pages = Pages(runs)
    try:
        pages.now()
    except Unreadable as error:  # a run without a check yet is waited for; other errors are reported at once
        if "without a check" not in str(error):
            raise
    server = serve(pages, port, refresh)
    click.echo(f"http://{LOOPBACK}:{server.server_address[1]}/  (press Ctrl-C to stop)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo("", err=True)
    finally:
        server.server_close()
    return 0


class Pages:
    """The page of one or more histories, rendered again when one of the files has changed.

    One request renders; meanwhile, the others get the former page.
    """

    def __init__(self, runs: tuple[str, ...]) -> None:
        self._runs = runs
        self._stamps: tuple[Any, ...] = ()
        self._page = b""
        self._lock = threading.Lock()  # held only to read and set these fields
        self._is_rendering = False

    def now(self) -> bytes:
        """Return the current page as HTML bytes.

        :raises LayerscopeError: a history cannot be read, or is being read for the first time.
        """
        stamps = tuple(_stamp(path) for path in self._runs)
        with self._lock:
            if self._page and (self._is_rendering or stamps == self._stamps):
                return self._page
            if self._is_rendering:
                raise Unreadable("the history is being read; this page reloads by itself")
            self._is_rendering = True
        try:
            page = self._render()
        finally:
            with self._lock:
                self._is_rendering = False
        with self._lock:
            self._page, self._stamps = page, stamps
        return page

    def _render(self) -> bytes:
        from layerscope.persistence import report_file
        from layerscope.views.page import writing

        html = writing.render_page([report_file.load_history(path) for path in self._runs])
        return html.encode("utf-8", "backslashreplace")


def _stamp(path: str) -> tuple[int, int, int]:
    """Return what changes whenever a file is written or replaced."""
    status = Path(path).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class Server(ThreadingHTTPServer):
    """A server that ends slow connections and refuses more than ``MAX_CONNECTIONS`` at a time."""

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, for at most ``MAX_SECONDS``."""
        timer = threading.Timer(MAX_SECONDS, _close, [request])
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about connections that break."""


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def serve(pages: Pages, port: int, refresh: int) -> Server:
    """Create a server on the loopback interface that serves the page at ``/``.

    :raises UsageError: the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answer only GET /; the check of the Host header blocks requests from other web sites."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if self.path != "/" or host not in (LOOPBACK, "localhost"):
                self.send_error(404)
                return
            try:
                body, code = pages.now(), 200
            except (LayerscopeError, OSError) as error:
                body, code = f"{error}\n".encode("utf-8", "backslashreplace"), 503
            except Exception as error:  # a history file may contain anything
                body, code = f"the history cannot be shown: {type(error).__name__}\n".encode(), 503
            self.send_response(code)
            self.send_header("Content-Type", f"text/{'html' if code == 200 else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Refresh", str(refresh))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            with contextlib.suppress(OSError):  # the browser closed the connection, or reads too slowly
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Do not log requests to stderr."""

    try:
        return Server((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror or error}; --port 0 chooses a free port") from None
