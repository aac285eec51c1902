"""Saved reports from strangers: unreadable or harmless, never another error than our own."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable
from layerscope.persistence import report_file, run_journal
from layerscope.persistence.report_json import SCHEMA
from layerscope.persistence.run_journal import MAGIC, RECORD_HEADER
from tests.command_line import cli


def saved(tmp_path: Path) -> Path:
    layerscope.analyze({"w.weight": np.random.default_rng(0).standard_normal((64, 60))}).save(tmp_path / "r.layerscope")
    return tmp_path / "r.layerscope"


def tampered(path: Path, old: bytes, new: bytes, compress: bool = False) -> Path:
    out = path.with_name("tampered.layerscope")
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compress else 0) as b:
        for info in a.infolist():
            b.writestr(info.filename, a.read(info).replace(old, new))
    return out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"schema": 1', b'"schema": 9'),
        (b'"k": 1', b'"k": 2'),
        (b"'<f8'", b"'|O8'"),
        (b'"w.weight"', b'"w.w\\u0000eight"'),
        (b'"min_evals"', b'"min_evil_"'),
        (b"NUMPY", b"NUMPI"),
        (b'"layers"', b'"lawyer"'),
    ],
)
def test_tampered_reports_are_unreadable_or_harmless(tmp_path: Path, old: bytes, new: bytes) -> None:
    done = cli("analyze", tampered(saved(tmp_path), old, new))
    assert done.returncode == (0 if b"u0000" in new else 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x00" not in done.stdout


def test_compressed_reports_are_refused_as_possible_bombs(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="compressed"):
        layerscope.load(tampered(saved(tmp_path), b"", b"", compress=True))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_truncated_reports_are_unreadable(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    assert cli("analyze", path).returncode == 3


def test_a_report_with_one_field_of_another_type_is_unreadable_or_harmless(tmp_path: Path) -> None:
    """Every leaf of a saved report replaced in turn: never another error than our own."""
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    plain = json.loads(members["layerscope.json"])

    def leaves(node: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        return [at, *(leaf for key, value in items for leaf in leaves(value, (*at, key)))]

    for where in leaves(plain)[1:]:
        if where[0] == "summary":
            continue
        for value in (None, "x", -1, [], {}):
            changed = json.loads(members["layerscope.json"])
            node = changed
            for key in where[:-1]:
                node = node[key]
            node[where[-1]] = value
            with zipfile.ZipFile(tmp_path / "t.layerscope", "w") as archive:
                for name, raw in {**members, "layerscope.json": json.dumps(changed).encode()}.items():
                    archive.writestr(name, raw)
            try:
                report = layerscope.load(tmp_path / "t.layerscope")
                repr(report)
                report.to_json()
                layerscope.rejudge(report)
            except layerscope.LayerscopeError:
                pass


def test_repeated_marks_and_sparse_journals_are_damaged_and_not_read_whole(tmp_path: Path, monkeypatch: Any) -> None:
    header = MAGIC + json.dumps({"schema": SCHEMA, "name": "run"}).encode() + b"\n"
    checked: list[int] = []
    original = run_journal._checksum
    monkeypatch.setattr(
        run_journal, "_checksum", lambda file, begin, length: checked.append(length) or original(file, begin, length)
    )
    path, n = tmp_path / "marks.layerscope", 2_000
    path.write_bytes(header + b"".join(RECORD_HEADER.pack(b"STEP", 8 * n, 1) for _ in range(n)))
    with pytest.raises(Unreadable, match="damaged at byte"):
        list(run_journal.read_records(path))
    assert sum(checked) <= (run_journal.MAX_PASSES + 1) * path.stat().st_size
    checked.clear()
    with (tmp_path / "sparse.layerscope").open("wb") as file:
        file.write(header)
        file.truncate(6 << 30)
    with pytest.raises(Unreadable, match="damaged at byte"):
        list(run_journal.read_records(tmp_path / "sparse.layerscope"))
    assert not checked


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    os.mkfifo(path)
    for read in (report_file.load_history, report_file.load, lambda p: list(run_journal.read_records(p))):
        with pytest.raises(Unreadable, match="only regular files"):
            read(path)
