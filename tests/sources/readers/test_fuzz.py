"""Mutated headers of every format whose parser is ours: an answer or our own error, whatever the bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerscope.errors import LayerscopeError
from layerscope.sources.opening import open_target
from layerscope.sources.readers.gguf_header import read_header
from layerscope.sources.readers.tensorflow_bundle import read_index
from layerscope.sources.storage.extents import whole_file
from layerscope.sources.storage.pickle_reader import unpickle, walk_tensors
from layerscope.sources.storage.protobuf_wire import fields
from tests.nets import FORMATS, Net

FILES = {  # name in tests.nets → the file that is mutated
    "safetensors": "net.safetensors", "torch file": "net.pt", "legacy torch file": "net.pth",
    "whole module": "whole.pt", "torchscript": "net.jit", "torch export": "net.pt2", "torch dcp": "dcp/.metadata",
    "npz": "net.npz", "gguf": "net.gguf", "tflite": "net.tflite", "msgpack": "net.msgpack",
    "tensorflow": "model.ckpt-7.index", "keras": "net.keras", "keras weights": "net.weights.h5", "onnx": "net.onnx",
}  # fmt: skip
EDGES = st.sampled_from([0, 4096, -4096, -66_000])
NUMBERS = [bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f", (1 << 62).to_bytes(8, "little")]
EVIL = st.sampled_from([b"\0", b"\xff", b"\x80", *NUMBERS]) | st.binary(min_size=1, max_size=9)
KINDS = st.sampled_from(["set", "insert", "delete", "cut"])
CHANGES = st.lists(st.tuples(KINDS, EDGES, st.integers(0, 4096), EVIL), min_size=1, max_size=4)
quietly = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def changed(raw: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """The file with some bytes set, put in or taken out, near its beginning or its end."""
    for kind, edge, offset, value in changes:
        at = max(0, min(len(raw), (edge if edge >= 0 else len(raw) + edge) + offset))
        if kind == "set":
            raw = raw[:at] + value + raw[at + len(value) :]
        elif kind == "insert":
            raw = raw[:at] + value + raw[at:]
        elif kind == "delete":
            raw = raw[:at] + raw[at + len(value) :]
        else:
            raw = raw[:at]
    return raw


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> object:
    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp(name.replace(" ", "-"))
        FORMATS[name][1](Net(), path)
        return path

    return folder


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_end_in_an_answer_or_in_our_own_error(folders: object, name: str) -> None:
    file = folders(name) / FILES[name]  # type: ignore[operator]
    raw = file.read_bytes()
    target = file.parent if file.name.startswith(".") or file.suffix == ".index" else file

    @quietly
    @given(CHANGES)
    def check(changes: list[tuple[str, int, int, bytes]]) -> None:
        file.write_bytes(changed(raw, changes))
        try:
            rows = list(open_target(target).layers())
        except LayerscopeError:
            return
        assert len({row.name for row in rows}) == len(rows)
        assert all(bool(row.axes) != bool(row.skipped) for row in rows)

    check()
    file.write_bytes(raw)


@quietly
@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_of_gguf(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0" + data)
    with pytest.raises(LayerscopeError):
        read_header(whole_file(tmp_path / "m.gguf"))
        raise LayerscopeError("a header, after all")


@quietly
@given(st.binary(max_size=400))
def test_any_bytes_as_a_table_of_tensorflow(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.index").write_bytes(data + bytes.fromhex("57fb808b247547db"))
    with pytest.raises(LayerscopeError):
        read_index(whole_file(tmp_path / "m.index"))


@quietly
@given(st.binary(max_size=200))
def test_any_bytes_as_a_protocol_buffer(data: bytes) -> None:
    try:
        assert sum(1 for _ in fields(data)) <= len(data)
    except ValueError:
        return


PLAIN = [b"(", b")", b"t", b"l", b"d", b"}", b"]", b"a", b"e", b"u", b"s", b"R", b"b", b"Q", b"0", b"2", b"\x81", b"N"]
WORDS = ["torch._utils _rebuild_tensor_v2", "foo Bar", "torch FloatStorage", "collections OrderedDict", "builtins list"]
NAMES = [word.replace(" ", "\n") for word in WORDS]
VALUES = [b"q\0", b"h\0", b"K\x05", b"X\x01\0\0\0a", b"\x89"]
OPCODES = st.sampled_from([*PLAIN, *VALUES, *(f"c{name}\n".encode() for name in NAMES)])


@quietly
@given(st.lists(OPCODES, max_size=40))
def test_any_opcodes_as_a_pickle(opcodes: list[bytes]) -> None:
    try:
        content = unpickle("x", b"\x80\x02" + b"".join(opcodes) + b".")
    except LayerscopeError:
        return
    assert len(list(walk_tensors(content, 8))) >= 0
