"""What a callback logs is read back from each tracker, through the framework's own logging and none of our code."""

from __future__ import annotations

import json
import sqlite3
import struct
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import layerscope
from tests.callbacks.test_frameworks import KEY, fitted, trainer
from tests.callbacks.test_frameworks import pytestmark as pytestmark
from tests.requirements import require

LAYER = "layerscope/alpha/net.0.weight"


def values(folder: Path, logger: Any) -> list[float]:
    """Of the first layer, as the history has them, after a run that logs there."""
    fitted(folder, logger, path=folder / "run.layerscope")
    return list(layerscope.History.load(folder / "run.layerscope").series("alpha", "net.0.weight")[1])


def test_tensorboard_shows_them(tmp_path: Path) -> None:
    require("tensorboard")
    loggers: Any = require("lightning.pytorch.loggers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = values(tmp_path, loggers.TensorBoardLogger(tmp_path, "t", version="0"))
    events = EventAccumulator(str(tmp_path / "t" / "0"))
    events.Reload()
    assert [event.value for event in events.Scalars(LAYER)] == pytest.approx(found)
    assert KEY in events.Tags()["scalars"]


def leveldb_log(raw: bytes, before: int) -> Iterator[bytes]:
    """The records of a LevelDB log, which wandb writes: blocks of 32 KiB, pieces with a head of 7 bytes."""
    at, parts = 0, b""
    while at + 7 <= len(raw):
        left = 32768 - (at + before) % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", raw[at + 4 : at + 7])
        if at + 7 + length > len(raw):
            return  # it is still being written
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


def finished(file: Path, seconds: float = 30.0) -> list[Any]:
    """The records of a file that another process of wandb's completes."""
    from wandb.proto import wandb_internal_pb2

    until, records = time.monotonic() + seconds, list[Any]()
    while not any(record.WhichOneof("record_type") == "exit" for record in records):
        assert time.monotonic() < until, f"the run of {file} does not end"
        records = []
        for data in leveldb_log(file.read_bytes()[7:], 7):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(data)
    return records


def test_wandb_shows_them_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = require("wandb")
    loggers: Any = require("lightning.pytorch.loggers")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    found = values(tmp_path, loggers.WandbLogger(save_dir=tmp_path, offline=True))
    wandb.finish()
    (file,) = tmp_path.rglob("*.wandb")
    seen = []
    for record in finished(file):
        if record.WhichOneof("record_type") == "history":
            keys = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            seen += [float(keys[LAYER])] if LAYER in keys else []
    assert seen == pytest.approx(found)


def test_mlflow_shows_them_in_sqlite(tmp_path: Path) -> None:
    mlflow: Any = require("mlflow")
    require("sqlalchemy")
    loggers: Any = require("lightning.pytorch.loggers")
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger = loggers.MLFlowLogger("layers", tracking_uri=uri)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed: make test does it")
        found = values(tmp_path, logger)
        client = mlflow.tracking.MlflowClient(tracking_uri=uri)
        history = client.get_metric_history(logger.run_id, LAYER)
    assert [metric.value for metric in sorted(history, key=lambda each: each.step)] == pytest.approx(found)


def test_trackio_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("transformers")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    require("trackio")
    from layerscope.callbacks.huggingface import LayerscopeCallback

    run = trainer(tmp_path / "run", "trackio", project="layers", run_name="one")
    LayerscopeCallback(every=4, path=tmp_path / "run.layerscope", budget=None).attach(run)
    run.train()
    history = layerscope.History.load(tmp_path / "run.layerscope")
    found = [report.summary["metrics"]["alpha"]["mean"] for report in history.reports]
    (file,) = (tmp_path / "trackio").glob("*.db")
    with closing(sqlite3.connect(file)) as base:
        rows = [json.loads(row) for (row,) in base.execute("SELECT metrics FROM metrics ORDER BY id")]
    seen = [row[name] for row in rows for name in row if name.endswith(KEY)]
    assert seen == pytest.approx(found)
