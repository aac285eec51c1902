"""TorchScript, torch.export and distributed checkpoints: weights only, and none of torch."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.sources.opening import open_target
from tests.nets import FORMATS, Net
from tests.requirements import require

torch = require("torch")


@pytest.mark.parametrize("name", ["torchscript", "torch export", "torch dcp", "legacy torch file", "whole module"])
def test_torch_is_not_imported(tmp_path: Path, name: str) -> None:
    path = FORMATS[name][1](Net(), tmp_path)
    script = (
        f"import sys, layerscope\nreport = layerscope.analyze({str(path)!r})\n"
        "assert 'torch' not in sys.modules\nprint(sum(row.spectrum is not None for row in report.rows))"
    )
    assert int(subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path)) == 15


def test_a_scripted_module_keeps_tied_and_narrow_weights(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(60, 70, dtype=torch.bfloat16), torch.nn.ReLU(), torch.nn.Linear(70, 60))
    net.add_module("again", net[0])
    torch.jit.script(net).save(tmp_path / "m.jit")
    report = layerscope.analyze(tmp_path / "m.jit")
    assert report.layers["0.weight"].ref.dtype == "bfloat16"
    assert report.layers["again.weight"].skipped == "same as 0.weight"


def test_an_exported_program_of_views_and_narrow_types(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(140, 60)[::2])
            self.narrow = torch.nn.Linear(60, 70, dtype=torch.bfloat16)

        def forward(self, x: Any) -> Any:
            return x @ self.w.T, self.narrow(x.bfloat16())

    odd = Odd()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(odd, (torch.zeros(2, 60),)), tmp_path / "m.pt2")
    source = open_target(tmp_path / "m.pt2")
    refs = {ref.name: ref for ref in source.layers()}
    np.testing.assert_array_equal(source.read(refs["w"]), odd.w.detach().numpy())
    assert refs["narrow.weight"].dtype == "bfloat16"


def sharded(folder: Path, shapes: list[tuple[int, int]], *, hole: bool = False, metadata: Any = None) -> np.ndarray:
    """A DCP folder whose one tensor lies in row shards, as four processes write them."""
    from torch.distributed.checkpoint import metadata as m
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    weight = torch.randn(sum(rows for rows, _ in shapes), shapes[0][1])
    chunks, storage, at = [], {}, 0
    for i, (rows, columns) in enumerate(shapes):
        buffer = folder / f"__{i}_0.distcp"
        torch.save(weight[at : at + rows].clone(), buffer)
        offsets = torch.Size([at + (10 if hole and i else 0), 0])
        chunks.append(m.ChunkStorageMetadata(offsets, torch.Size([rows, columns])))
        storage[m.MetadataIndex("fc.weight", offsets)] = _StorageInfo(buffer.name, 0, buffer.stat().st_size)
        at += rows
    properties = m.TensorProperties(dtype=torch.float32)
    entry = m.TensorStorageMetadata(properties, weight.shape, chunks)
    whole = m.Metadata({"fc.weight": entry}, storage_data=storage)
    (folder / ".metadata").write_bytes(pickle.dumps(whole if metadata is None else metadata))
    return np.asarray(weight.numpy())


def test_shards_are_put_together(tmp_path: Path) -> None:
    weight = sharded(tmp_path, [(30, 60), (30, 60), (11, 60)])
    source = open_target(tmp_path)
    [ref] = source.layers()
    np.testing.assert_array_equal(source.read(ref), weight)


def test_shards_that_overlap_fail_their_layer(tmp_path: Path) -> None:
    sharded(tmp_path, [(30, 60), (30, 60), (30, 60)], hole=True)
    row = layerscope.analyze(tmp_path).rows[0]
    assert row.failed
    assert "overlap" in row.skipped


def test_a_missing_or_cut_shard_fails_its_layer(tmp_path: Path) -> None:
    sharded(tmp_path, [(30, 60), (30, 60)])
    path = tmp_path / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:500])
    row = layerscope.analyze(tmp_path).rows[0]
    assert row.failed
    assert "truncated" in row.skipped


class Evil:
    """Would run a command."""

    def __reduce__(self) -> Any:
        return subprocess.run, (["true"],)


def test_distributed_metadata_are_never_executed(tmp_path: Path) -> None:
    for metadata, error in ((Evil(), Refused), ({"a": 1}, Unreadable), ([], Unreadable)):
        sharded(tmp_path, [(30, 60)], metadata=metadata)
        with pytest.raises(error):
            open_target(tmp_path)


def test_shards_are_looked_for_in_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    sharded(folder, [(30, 60)])
    raw = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(raw.replace(b"__0_0.distcp", b"../../passwd"))
    with pytest.raises(Refused):
        open_target(folder)


def rewritten(path: Path, name: str, data: bytes | None) -> Path:
    """The same zip with one member changed or gone."""
    out = path.with_name(f"changed{path.suffix}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith(name):
                new.writestr(info, old.read(info))
            elif data is not None:
                new.writestr(info.filename, data)
    return out


def config(**changes: Any) -> bytes:
    meta = {"dtype": 7, "sizes": [{"as_int": 70}, {"as_int": 60}], "strides": [{"as_int": 60}, {"as_int": 1}],
            "storage_offset": {"as_int": 0}, "layout": 7, **changes}  # fmt: skip
    return json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}}).encode()


@pytest.mark.parametrize(
    "table",
    [
        b"", b"[]", b"{", b'{"config": 5}', b'{"config": {}}', b'{"config": {"w": {}}}', b"[" * 100_000,
        config(sizes=[{"as_int": -1}]), config(sizes=[{"as_int": 1 << 62}, {"as_int": 60}]),
        config(sizes=[{"as_int": True}, {"as_int": 60}]), config(strides=[{"as_int": 1}]),
    ],
)  # fmt: skip
def test_tables_of_weights_that_lie_are_unreadable(tmp_path: Path, table: bytes) -> None:
    path = FORMATS["torch export"][1](Net(), tmp_path)
    with pytest.raises(TargetError):
        open_target(rewritten(path, "model_weights_config.json", table))


def test_a_weight_beyond_its_file_fails_its_layer(tmp_path: Path) -> None:
    path = FORMATS["torch export"][1](Net(), tmp_path)
    wide = config(sizes=[{"as_int": 7000}, {"as_int": 60}])
    row = layerscope.analyze(rewritten(path, "model_weights_config.json", wide)).rows[0]
    assert row.failed


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "constants.pkl"])
def test_torchscript_without_a_part_is_an_error_not_a_crash(tmp_path: Path, name: str) -> None:
    path = rewritten(FORMATS["torchscript"][1](Net(), tmp_path), name, None)
    try:
        report = layerscope.analyze(path)
    except TargetError:
        return
    assert any(row.failed for row in report.rows) or name == "constants.pkl"
