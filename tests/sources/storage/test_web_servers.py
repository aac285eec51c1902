"""Web servers are not trusted: ranges only, bounded time and memory, and no secret of a URL in any output."""

from __future__ import annotations

import base64
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import TargetError, TargetNotFound, Unreadable, without_secrets
from layerscope.sources.storage import http_files
from tests.command_line import cli
from tests.requirements import require
from tests.sources.storage.web_server import serving

USER, PASSWORD, SIGNATURE, TOKEN = "someone", "PASSW0RD", "S1GNATURE", "T0KEN"
SECRETS = (PASSWORD, SIGNATURE, TOKEN, f"{USER}:", "X-Amz")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save = require("safetensors.numpy").save_file
    rng = np.random.default_rng(0)
    save({f"fc{i}.weight": rng.normal(size=(80, 60)).astype(np.float32) for i in range(3)}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def secret_url(server: Any) -> str:
    place = f"{USER}:{PASSWORD}@{server.place}"
    return f"http://{place}/model.safetensors?X-Amz-Signature={SIGNATURE}&token={TOKEN}#{TOKEN}"


def test_a_file_on_a_server_reads_as_on_the_disk(file: Path) -> None:
    here = layerscope.analyze(file)
    with serving(file) as server:
        there = layerscope.analyze(secret_url(server))
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert all(headers["Authorization"] == f"Basic {wanted}" for headers in server.seen)
        assert all(headers["Range"].startswith("bytes=") for headers in server.seen)
    assert [(row.name, row.metrics) for row in there.rows] == [(row.name, row.metrics) for row in here.rows]
    assert there.meta["target"] == f"http://{server.place}/model.safetensors"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no ranges", "does not serve parts of files"),
        ("endless", "does not serve parts of files"),
        ("endless range", "got more"),
        ("short", r"got \d"),
        ("silent", "timed out"),
        ("forbidden", "HTTP 403"),
    ],
)
def test_bad_servers_end_in_one_line_in_bounded_time_and_memory(
    file: Path, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_files, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(http_files, "GRACE_SECONDS", 1.0)
    with serving(file, how, patience=3.0) as server:
        tracemalloc.start()
        begin = time.monotonic()
        with pytest.raises(Unreadable, match=message):
            layerscope.analyze(server.url)
        assert time.monotonic() - begin < 20
        assert tracemalloc.get_traced_memory()[1] < 30e6
        tracemalloc.stop()


def test_errors_that_pass_are_tried_again_and_a_missing_file_is_not(file: Path) -> None:
    with serving(file, "busy") as server:
        assert len(layerscope.analyze(server.url).rows) == 3
    with serving(file, "missing") as server:
        with pytest.raises(TargetNotFound, match="does not exist"):
            layerscope.analyze(server.url)
        assert len(server.seen) == 1
    with pytest.raises(TargetError, match="refused|Errno"):
        layerscope.analyze(server.url)


def test_no_secret_of_a_url_is_in_any_output(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with serving(file) as server:
        url = secret_url(server)
        missing = url.replace("/model", "/other")
        calls = [
            *(("analyze", url, "-f", form) for form in ("table", "json", "jsonl", "csv", "md", "sarif", "junit")),
            ("analyze", url, "--html", str(out / "page.html"), "--save", str(out / "report.layerscope")),
            ("analyze", url, missing),
            ("analyze", url, "--base", missing),
            ("analyze", str(file), "--base", url, "-f", "json"),
            ("analyze", url, "-l", "nothing"),
            ("analyze", url, "--dry-run"),
            ("describe", url),
            ("describe", url, "-f", "json"),
            ("compare", url, str(file), "--html", str(out / "compared.html")),
            ("compare", url, str(file), "-f", "json"),
            ("distances", url, str(file), "--html", str(out / "distances.html")),
            ("distances", url, str(file), "--json"),
            ("plot", "density", url, "-o", str(out / "density.svg")),
            ("history", url),
            ("watch", url),
            (url,),
        ]
        for words in calls:
            result = cli(*words)
            text = result.stdout + result.stderr
            assert not [secret for secret in SECRETS if secret in text], (words[0], words[2:], text[:300])
    written = [path.read_bytes() for path in out.iterdir()]
    assert len(written) >= 4
    assert not [secret for secret in SECRETS for raw in written if secret.encode() in raw]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("s3://key:secret@bucket/a.pt", "s3://bucket/a.pt"),
        ("https://h/x?sig=a%20b&c=d: does not exist", "https://h/x: does not exist"),
        ("simplecache::https://u:p@h/x.pt?t=1", "simplecache::https://h/x.pt"),
        ("hf://org/model@main/model.safetensors", "hf://org/model@main/model.safetensors"),
        ("two: 'http://u@h/a?b' and http://h/c?d, e", "two: 'http://h/a' and http://h/c, e"),
        ("a@b.c ?x=1 no URL", "a@b.c ?x=1 no URL"),
    ],
)
def test_secrets_are_removed_from_texts(text: str, plain: str) -> None:
    assert without_secrets(text) == plain
    assert str(Unreadable(text)) == plain
