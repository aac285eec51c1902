"""A web server of this machine that serves one file, well or badly."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOREVER = 1 << 20  # bytes of one piece of an endless answer


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(dict(self.headers))
        data, how = self.server.data, self.server.how
        if how == "silent":
            time.sleep(self.server.patience)
            return
        if how == "missing" or not self.path.startswith("/model"):
            self.send_error(404)
            return
        if how == "busy" and len(self.server.seen) % 3:
            self.send_error(503)
            return
        if how == "forbidden":
            self.send_error(403)
            return
        first, last = (int(x) for x in self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(data) - 1)
        whole = how in ("no ranges", "endless")
        self.send_response(200 if whole else 206)
        if not whole:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if how in ("endless", "endless range"):
            self.end_headers()
            try:
                while not self.server.stopped:
                    self.wfile.write(bytes(FOREVER))
            except OSError:
                return
            return
        body = data if whole else data[first : last + 1]
        body = body[: len(body) // 2] if how == "short" and len(body) > 8 else body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(file: Path, how: str = "well", patience: float = 60.0) -> Iterator[Any]:
    """Yield the server, with its address in ``url`` and the headers of all requests in ``seen``."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.data, server.how, server.patience, server.seen, server.stopped = file.read_bytes(), how, patience, [], False
    server.place = f"127.0.0.1:{server.server_address[1]}"
    server.url = f"http://{server.place}/model{file.suffix}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped = True
        server.shutdown()
        server.server_close()
