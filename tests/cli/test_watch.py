"""``layerscope watch``: the page of a growing history, for this machine alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.cli.commands import watch as watch_command
from layerscope.cli.commands.watch import LOOPBACK, Pages, serve
from tests.command_line import cli
from tests.samples import HOSTILE
from tests.views.pages import data_of


def model(seed: int, *names: str) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {f"{name}.weight": rng.standard_normal((60, 60)) for name in names or ("fc1", "fc2")}


def data_in(text: str, folder: Path) -> dict[str, Any]:
    (folder / "page.html").write_text(text, "utf-8")
    return data_of(folder / "page.html")[0]


def asked(url: str, **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_page_grows_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    monitor = layerscope.Monitor(model(0), path=path, budget=None)
    monitor.step(loss=3.0)
    server = serve(Pages((str(path),)), 0, 7)
    assert server.server_address[0] == LOOPBACK
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://{LOOPBACK}:{server.server_address[1]}/"
    try:
        code, text, headers = asked(url)
        assert (code, headers["Refresh"], headers["X-Content-Type-Options"]) == (200, "7", "nosniff")
        assert not data_in(text, tmp_path)["charts"]["steps"]
        monitor.step(model=model(1), loss=2.0)
        monitor.step(model=model(2), loss=1.0)
        head = data_in(asked(url)[1], tmp_path)
        assert [each["step"] for each in head["charts"]["steps"]] == [0, 1, 2]
        assert "loss 1" in head["charts"]["steps"][-1]["told"]
        names = {picture["name"] for picture in head["charts"]["run"]}
        assert {"over_steps", "layers_by_step"} <= names
        assert asked(f"{url}etc/passwd")[0] == 404
        assert asked(url, Host="evil.example")[0] == 404
        path.write_bytes(b"junk")
        code, text, _ = asked(url)
        assert (code, "not a saved history" in text) == (503, True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_hostile_names_are_text_there_too(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    names = [name.replace(".", "_") for name in list(HOSTILE)[:3]]
    with layerscope.Monitor(model(0, *names), path=path, budget=None, name=names[0]) as monitor:
        monitor.step()
        monitor.step(model=model(1, *names))
    text = Pages((str(path),)).now().decode("utf-8", "replace")
    assert "<script>alert" not in text
    assert "<img" not in text.replace("&lt;img", "")


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    junk = tmp_path / "junk.layerscope"
    junk.write_bytes(b"junk")
    with layerscope.Monitor(model(0), path=tmp_path / "r.layerscope", budget=None) as monitor:
        monitor.step()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, code, said in (
            ((str(tmp_path / "none.layerscope"),), 3, "no such file; a training run creates it"),
            ((str(junk),), 3, "not a saved history"),
            ((str(tmp_path / "r.layerscope"), "--port", port), 2, "--port 0 chooses a free port"),
            ((str(tmp_path / "r.layerscope"), "--port", "99999"), 2, "99999"),
        ):
            done = cli("watch", *words)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_it_says_where_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    with layerscope.Monitor(model(0), path=path, budget=None) as monitor:
        monitor.step()
    command = [sys.executable, "-m", "layerscope", "watch", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith(f"http://{LOOPBACK}:")
        assert asked(line.split()[0])[0] == 200
        running.send_signal(2)
        assert running.wait(20) == 0


@pytest.fixture
def served(tmp_path: Path) -> Any:
    path = tmp_path / "run.layerscope"
    monitor = layerscope.Monitor(model(0), path=path, budget=None)
    monitor.step(loss=3.0)
    monitor.close()
    pages = Pages((str(path),))
    server = serve(pages, 0, 7)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield path, pages, server.server_address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_run_that_becomes_a_pipe_hangs_no_request(served: Any) -> None:
    path, _, address = served
    url = f"http://{address[0]}:{address[1]}/"
    assert asked(url)[0] == 200
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    code, text, _ = asked(url)
    assert (code, "only regular files" in text) == (503, True)
    path.unlink()
    assert asked(url)[0] == 503
    path.write_bytes(content)
    assert asked(url)[0] == 200


def test_while_a_history_is_read_other_requests_get_the_former_page(served: Any, monkeypatch: Any) -> None:
    path, pages, _ = served
    former = pages.now()
    is_reading, may_go_on = threading.Event(), threading.Event()

    def slow() -> bytes:
        is_reading.set()
        assert may_go_on.wait(20)
        return b"new"

    monkeypatch.setattr(pages, "_render", slow)
    os.utime(path, ns=(1, 1))
    reader = threading.Thread(target=pages.now)
    reader.start()
    assert is_reading.wait(20)
    assert pages.now() == former
    may_go_on.set()
    reader.join()
    assert pages.now() == b"new"


def test_silent_and_slow_connections_are_ended_and_bounded(served: Any, monkeypatch: Any) -> None:
    _, _, address = served
    monkeypatch.setattr(watch_command, "MAX_SECONDS", 2)
    silent = [socket.create_connection(address, timeout=20) for _ in range(watch_command.MAX_CONNECTIONS)]
    extra = socket.create_connection(address, timeout=20)
    assert extra.recv(1) == b"", "one connection more is closed at once"
    assert all(connection.recv(1) == b"" for connection in silent), "silent connections end after MAX_SECONDS"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert asked(f"http://{address[0]}:{address[1]}/")[0] == 200
            break
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    else:
        pytest.fail("the server does not answer again")
    for connection in [*silent, extra]:
        connection.close()
