"""Files are written whole, by many threads at once, beside what dead processes left."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerscope.errors import OutputError
from layerscope.persistence.atomic_files import write_atomically


def test_ninety_threads_write_one_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 10_000 for i in range(90)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "report.html", content), contents))
    assert (tmp_path / "report.html").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_a_dead_process_left_is_ignored_and_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    for name in (f".r.html.{os.getpid()}.part", ".r.html.part"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "r.html", b"new")
    assert (tmp_path / "r.html").read_bytes() == b"new"
    assert victim.read_bytes() == b"kept"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.html").write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(tmp_path / "r.html", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert (tmp_path / "r.html").read_bytes() == b"old"
