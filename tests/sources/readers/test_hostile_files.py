"""What was found by attacking the readers: each case ends in one of our errors, or in a layer that says why."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.sources.opening import open_target
from layerscope.sources.storage.pickle_reader import unpickle
from layerscope.sources.storage.torch_rebuilds import ALLOWED_GLOBALS
from tests.nets import FORMATS, Net, field, table
from tests.requirements import require


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def call(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(key: str, kind: str = "FloatStorage", count: int = 16) -> bytes:
    return b"(" + text("storage") + call("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(stored: bytes, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    sizes = [b"(" + b"".join(number(n) for n in ns) + b"t" for ns in (shape, strides)]
    return call("torch._utils", "_rebuild_tensor_v2") + b"(" + stored + number(0) + sizes[0] + sizes[1] + b"\x89NtR"


def torch_zip(folder: Path, pairs: bytes, data: dict[str, bytes]) -> Path:
    path = folder / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}(" + pairs + b"u.")
        for key, raw in data.items():
            archive.writestr(f"m/data/{key}", raw)
    return path


def ends(path: Path) -> None:
    """Opening or analysing fails as it should."""
    with pytest.raises(TargetError):
        report = layerscope.analyze(path)
        assert [row for row in report.rows if row.failed or row.skipped]
        raise Unreadable("layer by layer")


@pytest.mark.parametrize("dtype", ["O", "object", "V8", "S4", "datetime64[s]", "float33"])
def test_no_dtype_of_a_strangers_choice_reaches_numpy(tmp_path: Path, dtype: str) -> None:
    msgpack = require("msgpack")
    stored = b"(" + text("storage") + text(dtype) + text("0") + text("cpu") + number(4) + b"tQ"
    ends(torch_zip(tmp_path, text("w") + tensor(stored, (4,), (1,)), {"0": b"A" * 64}))
    array = msgpack.ExtType(1, msgpack.packb(([2], dtype, b"A" * 16)))
    (tmp_path / "m.msgpack").write_bytes(msgpack.packb({"w": array}))
    with pytest.raises(Unreadable):
        open_target(tmp_path / "m.msgpack")


def test_a_zip_member_is_not_read_on_into_its_neighbour(tmp_path: Path) -> None:
    pairs = text("w.weight") + tensor(storage("0", count=256), (16, 16), (16, 1))
    path = torch_zip(tmp_path, pairs, {"0": bytes(16), "1": bytes(4096)})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"m/data/0") - 46  # its entry in the table of members
    raw[at + 20 : at + 28] = struct.pack("<II", 1024, 1024)
    path.write_bytes(raw)
    ends(path)


@pytest.mark.parametrize("count", [4, 4096, 1 << 40])
def test_a_storage_is_as_long_as_its_pickle_says(tmp_path: Path, count: int) -> None:
    pairs = text("w.weight") + tensor(storage("0", count=count), (60, 60), (0, 0))
    ends(torch_zip(tmp_path, pairs, {"0": bytes(64)}))
    torch = require("torch")
    torch.save({"w.weight": torch.ones(60, 70)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "old.pth").read_bytes()
    at = raw.rfind(struct.pack("<q", 4200))
    (tmp_path / "old.pth").write_bytes(raw[:at] + struct.pack("<q", count) + raw[at + 8 :])
    ends(tmp_path / "old.pth")


def test_a_view_of_a_storage_is_refused(tmp_path: Path) -> None:
    view = b"(" + text("v") + number(2000) + number(64) + b"t"
    stored = storage("0", count=4096)[:-2] + view + b"tQ"
    ends(torch_zip(tmp_path, text("w") + tensor(stored, (60, 60), (60, 1)), {"0": bytes(16384)}))


HUGE_LIST = b"(" + b"N" * 5000 + b"l"
PICKLES: dict[str, bytes] = {
    "a storage that is changed": storage("0") + b"}" + text("count") + number(1 << 40) + b"sb",
    "a function that is changed": call("torch._utils", "_rebuild_tensor_v2")
    + b"}"
    + text("__name__")
    + text("x")
    + b"sb",
    "a persistent id of lists": b"]" + b"]a" * 50 + b"Q",
    "a list called as one": call("builtins", "list") + b"(" + HUGE_LIST + b"tR",
    "text of another codec": call("builtins", "str") + b"(C\x04abcd" + text("punycode") + b"tR",
    "a size of lists": call("torch", "Size") + b"(]tR",
    "a table of a number": call("collections", "OrderedDict") + b"(" + number(5) + b"tR",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_end_and_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    before = {key: getattr(value, "__dict__", None) for key, value in ALLOWED_GLOBALS.items()}
    path = torch_zip(tmp_path, text("x") + PICKLES[name], {"0": bytes(64)})
    with pytest.raises(TargetError):
        open_target(path)
    assert {key: getattr(value, "__dict__", None) for key, value in ALLOWED_GLOBALS.items()} == before


def shared(depth: int, width: int) -> Any:
    """Lists of the same list, width to the power depth of them."""
    inner: Any = [1]
    for _ in range(depth):
        inner = [inner] * width
    return inner


@pytest.mark.parametrize(("depth", "width"), [(60, 2), (4, 1000)])
def test_shared_containers_are_not_unfolded(tmp_path: Path, depth: int, width: int) -> None:
    raw = pickle.dumps({"state_dict": {"a": shared(depth, width)}}, protocol=2)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", raw)
    with pytest.raises(TargetError):
        open_target(tmp_path / "m.pt")


def test_states_set_again_and_again_are_not_gathered() -> None:
    found = unpickle("x", call("foo", "Bar") + b")R" + b"Nb" * 200_000 + b".")
    assert found.state == {}


@pytest.mark.parametrize("count", [1000, 20_000])
def test_names_that_are_alike_are_told_apart_in_time(tmp_path: Path, count: int) -> None:
    onnx = require("onnx")
    tensors = [onnx.TensorProto(name=str(i), dims=[1], data_type=1, raw_data=bytes(4)) for i in range(count)]
    nodes = [onnx.helper.make_node("Add", ["x", str(i)], ["y"], name="n") for i in range(count)]
    (tmp_path / "m.onnx").write_bytes(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString()
    )
    names = [ref.name for ref in open_target(tmp_path / "m.onnx").layers()]
    assert len(set(names)) == count


def test_onnx_values_that_lead_to_themselves_end(tmp_path: Path) -> None:
    onnx = require("onnx")
    nodes = [onnx.helper.make_node("Identity", ["a"], ["a"])] * 64
    weight = onnx.numpy_helper.from_array(np.ones((60, 70), np.float32), "a")
    graph = onnx.helper.make_graph(nodes, "g", [], [], [weight])
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert [ref.skipped for ref in open_target(tmp_path / "m.onnx").layers()] == ["an operand of Identity"]


def test_branches_may_use_a_name_twice(tmp_path: Path, rng: np.random.Generator) -> None:
    onnx = require("onnx")
    codes, branches = rng.integers(-9, 9, (60, 70)).astype(np.int8), []
    for scale in (2.0, 50.0):
        tensors = [onnx.numpy_helper.from_array(a, n) for n, a in (("q", codes), ("s", np.float32(scale)))]
        nodes = [
            onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["f"]),
            onnx.helper.make_node("MatMul", ["x", "f"], ["y"]),
        ]
        branches.append(onnx.helper.make_graph(nodes, "b", [], [], tensors))
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    source = open_target(tmp_path / "m.onnx")
    found = [source.read(ref) for ref in source.layers() if ref.axes]
    assert sorted(float(np.abs(w).max()) for w in found) == [float(np.abs(codes).max()) * s for s in (2, 50)]


def h5(folder: Path, build: Callable[[Any], Any]) -> Path:
    h5py = require("h5py")
    with h5py.File(folder / "m.h5", "w") as file:
        build(file)
    return folder / "m.h5"


@pytest.mark.parametrize("size", [0x80, 2**64 - 1, 0, 1])
def test_a_heap_of_strings_without_an_end_ends(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.sources.storage import hdf5_process

    def build(file: Any) -> None:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "fc"
        group.create_dataset("0", data=np.zeros((60, 60), "f4"))

    monkeypatch.setattr(hdf5_process, "LOCAL_TIMEOUT_SECONDS", 3)
    path = h5(tmp_path, build)
    raw = bytearray(path.read_bytes())
    at = raw.find(b"GCOL")
    raw[at + 24 : at + 32] = struct.pack("<Q", size)
    path.write_bytes(raw)
    try:
        assert len(list(open_target(path).layers())) == 1
    except Unreadable as error:
        assert "HDF5" in str(error)  # noqa: PT017


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_hdf5_arrays_in_one_piece_are_mapped_and_others_read(tmp_path: Path, compression: str | None) -> None:
    array = np.arange(4200, dtype="f4").reshape(60, 70)

    def build(file: Any) -> None:
        file.create_dataset("layers/dense/vars/0", data=array, compression=compression)

    source = open_target(h5(tmp_path, build))
    [ref] = source.layers()
    read = source.read(ref)
    np.testing.assert_array_equal(read, array)
    assert isinstance(read, np.memmap) == (compression is None)


def test_a_crash_of_the_library_is_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.sources.storage import hdf5_process

    path = h5(tmp_path, lambda file: file.create_dataset("layers/dense/vars/0", data=np.zeros((60, 70))))
    (tmp_path / "crashing_child.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(hdf5_process, "CHILD_MODULE", "crashing_child")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unreadable, match="signal 11"):
        open_target(path)


def test_an_hdf5_chunk_larger_than_its_array_is_not_unpacked(tmp_path: Path) -> None:
    def build(file: Any) -> None:
        file.create_dataset(
            "layers/dense/vars/0", (60, 60), "f4", chunks=(30_000, 3000), maxshape=(None, None), compression="gzip"
        )

    [ref] = open_target(h5(tmp_path, build)).layers()
    assert "larger than the array" in ref.skipped


@pytest.mark.parametrize("name", ["keras", "torch export"])
def test_json_bombs_are_not_built(tmp_path: Path, name: str) -> None:
    path = FORMATS[name][1](Net(), tmp_path)
    bomb = b"[" + b"{}," * 5_000_000 + b"0]"
    inner = "config.json" if name == "keras" else "model_weights_config.json"
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / f"bomb{path.suffix}", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info, bomb if info.filename.endswith(inner) else old.read(info), info.compress_type)
    with pytest.raises(Unreadable):
        open_target(tmp_path / f"bomb{path.suffix}")


def test_zips_with_tables_beyond_any_use_are_not_parsed(tmp_path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHH", 8, 0, 0) + bytes(12)
    entries = 1_300_000
    body = b"".join(entry + f"{i:08d}".encode() for i in range(1000)) * (entries // 1000)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(body), 0, 0)
    tricky = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0x4B50, 0x0605, 0xFFFF, 0xFFFF, len(body), 0, 0)
    for i, tail in enumerate((end, tricky)):
        path = tmp_path / f"m{i}.pt"
        path.write_bytes(b"PK\x03\x04" + body + tail)
        with pytest.raises(TargetError):
            open_target(path)


def test_tensorflow_blocks_are_read_once_each(tmp_path: Path) -> None:
    data = b"".join(b"\0\x01\0" + bytes([65 + i % 26]) for i in range(100)) + struct.pack("<II", 0, 1)
    handle = b"\0" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    index = b"".join(b"\0\x02" + bytes([len(handle)]) + struct.pack(">H", i) + handle for i in range(3000))
    index += struct.pack("<II", 0, 1)
    body = data + b"\0" + bytes(4)
    where = len(body)

    def varint(n: int) -> bytes:
        return bytes([n & 0x7F]) if n < 0x80 else bytes([n & 0x7F | 0x80]) + varint(n >> 7)

    footer = (b"\0\0" + varint(where) + varint(len(index))).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    (tmp_path / "m.index").write_bytes(body + index + b"\0" + bytes(4) + footer)
    with pytest.raises(Unreadable, match="out of order|a key occurs twice"):
        open_target(tmp_path / "m.index")


def test_tensorflow_keys_are_not_unfolded(tmp_path: Path) -> None:
    long = b"k" * 65_000
    entries = [(b"", field(1, 1)), *((long + str(i).encode(), field(1, 1)) for i in range(50))]
    (tmp_path / "m.index").write_bytes(table(entries))
    with pytest.raises(Unreadable):
        open_target(tmp_path / "m.index")


@pytest.mark.parametrize("name", ["m.safetensors.index.json", "checkpoint"])
def test_tables_that_are_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text('{"weight_map": {}}')
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "outside", folder / name)
    with pytest.raises(Refused):
        open_target(folder)


def test_orbax_chunks_that_are_links_or_missing(tmp_path: Path) -> None:
    require("orbax.checkpoint")
    folder = FORMATS["orbax zarr"][1](Net(), tmp_path)
    chunk = folder / "params.fc.kernel" / "0.0"
    saved = chunk.read_bytes()
    chunk.unlink()
    row = layerscope.analyze(folder).layers["params.fc.kernel"]
    assert row.failed
    (tmp_path / "secret").write_bytes(saved)
    os.symlink(tmp_path / "secret", chunk)
    with pytest.raises(Refused, match="out of its folder"):
        open_target(folder)


def test_an_orbax_folder_is_not_decoded_as_a_url(tmp_path: Path) -> None:
    require("orbax.checkpoint")
    FORMATS["orbax"][1](Net(), tmp_path).rename(tmp_path / "victim")
    trick = tmp_path / "%76ictim"
    trick.mkdir()
    for name in ("_METADATA", "manifest.ocdbt"):
        (trick / name).write_bytes((tmp_path / "victim" / name).read_bytes() if name == "_METADATA" else b"")
    with pytest.raises(TargetError):
        open_target(trick)


def test_flax_names_that_collide_are_refused(tmp_path: Path) -> None:
    msgpack = require("msgpack")
    one, two = (msgpack.ExtType(1, msgpack.packb(([n], "float32", bytes(4 * n)))) for n in (60, 70))
    (tmp_path / "m.msgpack").write_bytes(msgpack.packb({"a": {"weight": one}, "a.weight": two}))
    with pytest.raises(Unreadable, match="two arrays have the same name"):
        open_target(tmp_path / "m.msgpack")


def test_gguf_tensors_may_not_share_bytes(tmp_path: Path) -> None:
    require("gguf")
    from tests.sources.readers.test_gguf import header
    from tests.sources.readers.test_gguf import tensor as gguf_tensor

    many = [gguf_tensor(f"w{i}.weight", (60, 70)) for i in range(3)]
    (tmp_path / "m.gguf").write_bytes(header(many) + bytes(4 * 4200))
    with pytest.raises(Unreadable, match="overlaps"):
        open_target(tmp_path / "m.gguf")


def test_a_saved_report_with_odd_axes_is_damaged(tmp_path: Path) -> None:
    report = layerscope.analyze({"w.weight": np.ones((60, 70)), "b": np.ones(3)})
    report.save(tmp_path / "r.layerscope")
    for axes in ("weight", "x", "oo"):
        out = io.BytesIO()
        with zipfile.ZipFile(tmp_path / "r.layerscope") as old, zipfile.ZipFile(out, "w") as new:
            for info in old.infolist():
                data = old.read(info)
                if info.filename == "layerscope.json":
                    content = json.loads(data)
                    content["layers"][1]["parts"]["weight"]["ref"]["axes"] = axes
                    data = json.dumps(content).encode()
                new.writestr(info.filename, data)
        (tmp_path / "odd.layerscope").write_bytes(out.getvalue())
        with pytest.raises(Unreadable, match="report is damaged"):
            layerscope.describe(tmp_path / "odd.layerscope")
