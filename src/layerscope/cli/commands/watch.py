"""``layerscope watch``: a local web page that follows a training run."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from layerscope.errors import LayerscopeError, TargetNotFound, Unreadable, UsageError

LOOPBACK = "127.0.0.1"


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
    """The page of one or more histories, rendered again when one of the files has changed."""

    def __init__(self, runs: tuple[str, ...]) -> None:
        self._runs = runs
        self._stamps: tuple[Any, ...] = ()
        self._page = b""
        self._lock = threading.Lock()

    def now(self) -> bytes:
        """Return the current page as HTML bytes.

        :raises LayerscopeError: a history cannot be read.
        """
        from layerscope.persistence import report_file
        from layerscope.views.page import writing

        with self._lock:
            stamps = tuple((Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in self._runs)
            if stamps != self._stamps:
                html = writing.render_page([report_file.load_history(path) for path in self._runs])
                self._page, self._stamps = html.encode("utf-8", "backslashreplace"), stamps
            return self._page


def serve(pages: Pages, port: int, refresh: int) -> ThreadingHTTPServer:
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
            with contextlib.suppress(ConnectionError):  # the browser closed the connection
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Do not log requests to stderr."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror or error}; --port 0 chooses a free port") from None
