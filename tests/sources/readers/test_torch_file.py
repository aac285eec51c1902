from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.sources import opening
from layerscope.sources.opening import open_target
from layerscope.sources.readers.torch_zip import TensorZip
from layerscope.sources.storage.extents import whole_file
from tests.requirements import require

torch = require("torch")


def state(rng: np.random.Generator) -> dict[str, Any]:
    tied = torch.from_numpy(rng.standard_normal((70, 60)).astype(np.float32))
    return {
        "a.weight": torch.from_numpy(rng.standard_normal((80, 64)).astype(np.float32)),
        "half.weight": torch.from_numpy(rng.standard_normal((64, 64)).astype(np.float32)).to(torch.bfloat16),
        "strided.weight": torch.from_numpy(rng.standard_normal((64, 90)).astype(np.float32)).T[::2],
        "embed.weight": tied,
        "head.weight": tied,
        "param.weight": torch.nn.Parameter(torch.from_numpy(rng.standard_normal((60, 60)))),
        "steps": torch.tensor(5),
    }


NESTINGS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "acc": torch.tensor(0.9), "state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(80, 64)}}}, "args": None},
    "model_state": lambda s: {"model_state": s, "step": 7},
    "list of one": lambda s: {"state_dict": [s]},
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".th", ".ckpt"])
def test_nested_checkpoints_read_as_the_live_dict(
    tmp_path: Path, rng: np.random.Generator, nesting: str, suffix: str
) -> None:
    weights = state(rng)
    path = tmp_path / f"model{suffix}"
    torch.save(NESTINGS[nesting](weights), path)
    report = layerscope.analyze(path)
    live = layerscope.analyze(weights)
    assert {r.name: dict(r.metrics) for r in report.rows} == {r.name: dict(r.metrics) for r in live.rows}
    assert report.layers["head.weight"].skipped == "same as embed.weight"
    assert report.layers["embed.weight"].ref.aliases == ("head.weight",)
    assert report.layers["half.weight"].ref.dtype == "bfloat16"


@pytest.mark.parametrize("nesting", NESTINGS)
def test_legacy_checkpoints_read_as_zipped_ones(tmp_path: Path, rng: np.random.Generator, nesting: str) -> None:
    content = NESTINGS[nesting](state(rng))
    reports = []
    for zipped in (True, False):
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
        reports.append(layerscope.analyze(tmp_path / "m.pth"))
    new, old = ({row.name: dict(row.metrics) for row in report.rows} for report in reports)
    assert new == old


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_a_cut_legacy_checkpoint_is_unreadable(tmp_path: Path, rng: np.random.Generator, keep: float) -> None:
    path = tmp_path / "m.pth"
    torch.save({"a.weight": torch.ones(80, 70)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(TargetError):
        report = layerscope.analyze(path)
        assert report.layers["a.weight"].failed
        raise Unreadable(report.layers["a.weight"].skipped)


class Exploit:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    torch.save({"w": torch.ones(3, 3), "x": Exploit(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(Refused, match="nothing is executed"):
        layerscope.analyze(path)
    assert not trace.exists()


class Block(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A class that its reader does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(80, 60)
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(64, 70, 3), torch.nn.BatchNorm2d(70))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_module_is_read_and_never_made(tmp_path: Path, legacy: bool) -> None:
    block, path = Block(), tmp_path / "whole.pt"
    torch.save({"model": block, "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    code = (
        "import sys, layerscope\n"
        f"report = layerscope.analyze({str(path)!r})\n"
        "assert 'torch' not in sys.modules\n"
        "print(*[f'{r.name}={r.metrics.get(\"alpha\", 0)!r}' for r in report.rows])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path).split()
    live = layerscope.analyze(block.state_dict())
    assert sorted(printed) == sorted(f"{r.name}={r.metrics.get('alpha', 0)!r}" for r in live.rows)


@pytest.mark.parametrize(
    "reduce", [(os.system, ("true",)), (eval, ("1",)), (subprocess.run, (["true"],)), (getattr, (1, "real"))]
)
def test_functions_of_the_standard_library_are_refused_by_name(tmp_path: Path, reduce: Any) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return reduce

    torch.save({"w": torch.ones(3, 3), "x": Evil()}, tmp_path / "m.pt")
    with pytest.raises(Refused, match=reduce[0].__name__):
        layerscope.analyze(tmp_path / "m.pt")


def test_lightning_checkpoints_with_hyperparameters_are_read(tmp_path: Path) -> None:
    import argparse

    class Config:
        rate = 0.1

    Config.__module__, Config.__qualname__ = "somebodys.package", "Config"
    module = type(sys)("somebodys.package")
    module.Config = Config  # type: ignore[attr-defined]
    sys.modules |= {"somebodys": type(sys)("somebodys"), "somebodys.package": module}
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": {"model.fc.weight": torch.randn(80, 60)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": Path("x.ckpt")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(80, 60)}}}],
        "hyper_parameters": argparse.Namespace(lr=0.1, config=Config()),
    }
    torch.save(content, tmp_path / "last.ckpt")
    del sys.modules["somebodys"], sys.modules["somebodys.package"]
    report = layerscope.analyze(tmp_path / "last.ckpt")
    assert [row.name for row in report.rows] == ["model.fc.weight"]


def test_a_plain_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"w": Exploit(trace)}))
    with pytest.raises(TargetError):
        layerscope.analyze(tmp_path / "evil.bin")
    assert not trace.exists()


def test_only_tensors_can_be_built(tmp_path: Path) -> None:
    for payload in (b"cbuiltins\neval\n(S'1'\ntR.", b"cos\nsystem\n.", b"c__builtin__\nexec\n.", b"cos.path\njoin\n."):
        path = tmp_path / "evil.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", payload)
        with pytest.raises(Refused, match="asks for"):
            TensorZip(whole_file(path))


def rewritten(path: Path, change: Any) -> Path:
    """The same zip with its members changed."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            name, data, method = change(info.filename, old.read(info))
            if name:
                new.writestr(name, data, method)
    return out


@pytest.mark.parametrize(
    "damage", ["missing storage", "short storage", "compressed storage", "no pickle", "big-endian"]
)
def test_damaged_zips_are_unreadable(tmp_path: Path, rng: np.random.Generator, damage: str) -> None:
    torch.save({"a.weight": torch.ones(70, 60)}, tmp_path / "model.pt")

    def change(name: str, data: bytes) -> tuple[str, bytes, int]:
        if name.endswith("/data/0"):
            if damage == "missing storage":
                return "", data, 0
            return name, data[:100] if damage == "short storage" else data, 8 * (damage == "compressed storage")
        if name.endswith("data.pkl") and damage == "no pickle":
            return name + ".gone", data, 0
        return name, b"big" if name.endswith("byteorder") and damage == "big-endian" else data, 0

    path = rewritten(tmp_path / "model.pt", change)
    with pytest.raises(Unreadable):
        zipped = TensorZip(whole_file(path))
        zipped.read(zipped.content["a.weight"])


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 0.5, 0.99])
def test_truncated_checkpoints_are_unreadable(tmp_path: Path, keep: float) -> None:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.ones(200, 60)}, buffer)
    raw = buffer.getvalue()
    path = tmp_path / "cut.pt"
    path.write_bytes(raw[: int(keep if keep >= 1 or keep == 0 else keep * len(raw))])
    with pytest.raises(TargetError):
        layerscope.analyze(path)


def test_a_checkpoint_without_tensors_says_what_it_found(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(Unreadable, match="no tensors found"):
        layerscope.analyze(tmp_path / "empty.pt")


def test_self_reference_expanded_tensors_and_nested_keys_do_not_exhaust_us(tmp_path: Path) -> None:
    content: dict[str, Any] = {"w.weight": torch.ones(60, 60), "big.weight": torch.zeros(1).expand(40000, 40000)}
    for i in range(200):
        content[f"k{i}"] = content
    torch.save(content, tmp_path / "self.pt")
    report = layerscope.describe(tmp_path / "self.pt")
    assert report.layers["big.weight"].skipped == "expanded: it repeats the same numbers"
    assert report.layers["w.weight"].skipped == ""
    pair: Any = (1, 2)
    for _ in range(60):
        pair = (pair, pair)
    with zipfile.ZipFile(tmp_path / "dag.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps([pair], protocol=2))
    with pytest.raises(Unreadable, match="nested tuples expand to more than 1,048,576 entries"):
        layerscope.analyze(tmp_path / "dag.pt")


def test_a_memo_index_from_nowhere_is_not_allocated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "memo.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02Nr\xff\xff\xff\x0f.")
    with pytest.raises(Unreadable, match="memo index"):
        layerscope.analyze(tmp_path / "memo.pt")


def test_parametrised_weights_in_a_file_are_formed(tmp_path: Path) -> None:
    net = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(60, 80))
    torch.save(net.state_dict(), tmp_path / "m.pt")
    report = layerscope.analyze(tmp_path / "m.pt")
    assert [(row.name, row.ref.kind) for row in report.rows if not row.skipped] == [("weight", "dense")]
    assert {row.ref.kind for row in report.rows if row.skipped} == {"bias", "ingredient"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint16", "bfloat16", "float16"])
def test_dtypes_without_a_storage_class_read_as_torch_reads_them(tmp_path: Path, dtype: str, zipped: bool) -> None:
    from layerscope.sources.opening import open_target

    tensor = (torch.arange(4200).reshape(60, 70) % 100).to(getattr(torch, dtype))
    torch.save({"w.weight": tensor}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    source = open_target(tmp_path / "m.pt")
    [ref] = source.layers()
    assert ref.dtype == dtype
    np.testing.assert_array_equal(source.read(ref).astype(np.float32), tensor.to(torch.float32).numpy())


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested")
def test_sparse_meta_and_nested_tensors_have_a_row(tmp_path: Path) -> None:
    dense = torch.randn(60, 50) * (torch.rand(60, 50) < 0.1)
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])
    state = {
        "coo.weight": dense.to_sparse(), "csr.weight": dense.to_sparse_csr(), "csc.weight": dense.to_sparse_csc(),
        "half.weight": dense.bfloat16().to_sparse(), "meta.weight": torch.empty(9, 9, device="meta"),
        "nested.weight": nested, "twice.weight": torch.sparse_coo_tensor([[0, 0], [1, 1]], [2.0, 3.0], (4, 3)),
    }  # fmt: skip
    torch.save(state, tmp_path / "m.pt")
    source = open_target(tmp_path / "m.pt")
    refs = {ref.name: ref for ref in source.layers()}
    assert refs.keys() == state.keys()
    for name in ("coo.weight", "csr.weight", "twice.weight"):
        np.testing.assert_array_equal(source.read(refs[name]), state[name].to_dense().numpy())
        assert "sparse" in refs[name].how
    expected = dense.bfloat16().float().numpy()
    np.testing.assert_array_equal(np.asarray(source.read(refs["half.weight"])).astype(np.float32), expected)
    reasons = {name: ref.skipped for name, ref in refs.items() if ref.skipped}
    assert reasons.keys() == {"csc.weight", "meta.weight", "nested.weight"}
    assert "to_dense" in reasons["csc.weight"]
    assert "without values" in reasons["meta.weight"]


@pytest.mark.parametrize("place", [-1, 60])
def test_indices_of_a_sparse_tensor_stay_inside(tmp_path: Path, place: int) -> None:
    sparse = torch.eye(60).to_sparse()
    sparse._indices()[0, 0] = place
    torch.save({"w": sparse}, tmp_path / "m.pt")
    with pytest.raises(Unreadable, match="indices outside its shape"):
        source = open_target(tmp_path / "m.pt")
        source.read(next(iter(source.layers())))


def read_all(path: Path) -> dict[str, np.ndarray]:
    with opening.opened_source(path) as source:
        return {ref.name: np.array(source.read(ref)) for ref in source.layers() if not ref.skipped}


DTYPES = ["float32", "float64", "float16", "bfloat16"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["model.pkl", "model.pt"])
def test_state_dicts_written_by_pickle_dump(tmp_path: Path, name: str, dtype: str, protocol: int) -> None:
    weights = {"fc.weight": torch.randn(96, 64).to(getattr(torch, dtype)), "fc.bias": torch.zeros(96)}
    weights["head.weight"] = weights["fc.weight"][10:70, :50]  # a part of the same storage
    (tmp_path / name).write_bytes(pickle.dumps(weights, protocol=protocol))
    found = read_all(tmp_path / name)
    assert list(found) == ["fc.weight", "head.weight"]
    for key, array in found.items():
        np.testing.assert_array_equal(array.astype(np.float64), weights[key].double().numpy())


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2"])
def test_numpy_arrays_in_pickles_and_checkpoints(tmp_path: Path, dtype: str, order: str, protocol: int) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(60, 50)), dtype, order=order)  # type: ignore[call-overload]
    content = {"fc.weight": array, "names": np.array(["a", "b"], object), "big": array.astype(">f8"), "epoch": 3}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    torch.save({"model": content}, tmp_path / "model.pt", pickle_protocol=protocol)
    for name in ("model.pkl", "model.pt"):
        [(key, found)] = read_all(tmp_path / name).items()
        assert key == "fc.weight"
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("content", ["list", "tuple", "params"])
def test_lists_of_tensors_are_named_by_their_place(tmp_path: Path, content: str) -> None:
    tensors = [torch.randn(96, 64), torch.randn(60, 96)]
    torch.save(
        {"list": tensors, "tuple": tuple(tensors), "params": {"params": tensors}}[content], tmp_path / "model.pt"
    )
    found = read_all(tmp_path / "model.pt")
    assert list(found) == ["0", "1"]
    np.testing.assert_array_equal(found["1"], tensors[1].numpy())


def test_tables_beside_the_model_are_listed_and_copies_of_it_skipped(tmp_path: Path) -> None:
    def weights() -> dict[str, Any]:
        return {"fc.weight": torch.randn(96, 64), "fc.bias": torch.zeros(96)}

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.randn(60, 60))])
    optimizer.param_groups[0]["params"][0].grad = torch.randn(60, 60)
    optimizer.step()
    state = {"net": weights(), "best": weights(), "critic": {"fc2.weight": torch.randn(60, 64)}}
    torch.save({**state, "sgd": optimizer.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    rows = {row.name: row for row in layerscope.describe(tmp_path / "model.pt").rows}
    assert list(rows) == ["fc.weight", "fc.bias", "best.fc.weight", "best.fc.bias", "critic.fc2.weight"]
    assert [name for name, row in rows.items() if not row.skipped] == ["fc.weight", "critic.fc2.weight"]
    assert "--select best" in rows["best.fc.weight"].skipped
    chosen = layerscope.analyze(tmp_path / "model.pt", select="best")
    assert [row.name for row in chosen.rows if not row.skipped] == ["best.fc.weight"]


@pytest.mark.parametrize("damage", ["short", "text", "other"])
def test_damaged_storages_of_pickle_dump_are_refused(tmp_path: Path, damage: str) -> None:
    raw = pickle.dumps({"fc.weight": torch.randn(60, 50)}, protocol=4)
    at = raw.index(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"))
    if damage == "short":  # the pickle states one number more than there is
        raw = raw.replace(b"M\xb8\x0b", b"M\xb9\x0b")
    elif damage == "text":
        raw = raw[:at] + b"x" * 15 + raw[at + 15 :]
    else:
        raw = raw.replace(b"_load_from_bytes", b"_load_from_bites")
    (tmp_path / "model.pkl").write_bytes(raw)
    with pytest.raises(Unreadable, match="damaged pickle"):
        read_all(tmp_path / "model.pkl")
