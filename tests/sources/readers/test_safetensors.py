from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.sources.opening import open_target
from layerscope.sources.readers.safetensors import read_shard_index
from layerscope.sources.readers.safetensors_header import read_header


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(shape: list[int], start: int, stop: int, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_reads_what_the_library_writes(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, tmp_path / "m.safetensors", {"format": "pt"})
    source = open_target(tmp_path / "m.safetensors")
    for ref in source.layers():
        np.testing.assert_array_equal(source.read(ref), weights[ref.name])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("F64", np.float64), ("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2),
    ],
)  # fmt: skip
def test_every_float_dtype_reads_equal_to_float32(
    tmp_path: Path, rng: np.random.Generator, name: str, dtype: type
) -> None:
    narrow = rng.standard_normal((80, 60)).astype(dtype)
    raw = narrow.tobytes()
    path = write(tmp_path / "m.safetensors", {"w.weight": entry([80, 60], 0, len(raw), name)}, raw)
    found = layerscope.analyze(path).layers["w.weight"].metrics
    wide = narrow.astype(np.float64 if dtype is np.float64 else np.float32)
    expected = layerscope.analyze({"w.weight": wide}).layers["w.weight"].metrics
    assert found["lambda_max"] == pytest.approx(expected["lambda_max"], rel=1e-12)
    assert found["alpha"] == pytest.approx(expected["alpha"], rel=1e-9)


@pytest.mark.parametrize("name", ["I8", "U8", "BOOL", "I64", "F8_E8M0", "C64"])
def test_integers_are_skipped_with_a_reason_never_analysed(tmp_path: Path, name: str) -> None:
    size = {"I8": 1, "U8": 1, "BOOL": 1, "I64": 8, "F8_E8M0": 1, "C64": 8}[name]
    path = write(tmp_path / "m.safetensors", {"w.weight": entry([60, 60], 0, 3600 * size, name)}, bytes(3600 * size))
    layer = layerscope.analyze(path).layers["w.weight"]
    assert layer.spectrum is None
    assert "not decoded" in layer.skipped or "not weights" in layer.skipped


def test_fp8_whose_scales_do_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    raw = bytes(60 * 60) + bytes(12)
    header = {"w.weight": entry([60, 60], 0, 3600, "F8_E4M3"), "w.weight_scale_inv": entry([3], 3600, 3612)}
    layer = layerscope.analyze(write(tmp_path / "m.safetensors", header, raw)).layers["w.weight"]
    assert layer.skipped == "quantized, but its scales of shape (3,) do not match its shape (60, 60)"


GOOD = {"w": entry([2, 2], 0, 16)}
LIES = {
    "longer than the file": (GOOD, bytes(16), 10**6, "header of 1,000,000 bytes"),
    "ten gigabytes": (GOOD, bytes(16), 10 * 2**30, "header of 10,737,418,240 bytes"),
    "truncated data": (GOOD, bytes(8), None, "truncated"),
    "data that no tensor owns": (GOOD, bytes(32), None, "data after the last tensor"),
    "not JSON": (b"{nonsense", b"", None, "header is damaged"),
    "no table": (b"[1, 2]   ", b"", None, "header is not a JSON object"),
    "not UTF-8": (b'{"\xff": 1}', b"", None, "header is damaged"),
    "deeply nested": (b'{"a":' * 100000, b"", None, "header is damaged"),
    "negative offsets": ({"w": entry([2, 2], -16, 0)}, bytes(16), None, "expected non-negative integers"),
    "reversed offsets": ({"w": entry([2, 2], 16, 0)}, bytes(16), None, "cannot hold"),
    "overlap": ({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24), None, "overlaps 'a'"),
    "hole": ({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, bytes(36), None, "leaves a gap after 'a'"),
    "wrong size": ({"w": entry([2, 3], 0, 16)}, bytes(16), None, "16 bytes cannot hold shape [2, 3] of dtype F32"),
    "huge shape": ({"w": entry([2**61, 8], 0, 16)}, bytes(16), None, "cannot hold"),
    "unknown dtype": ({"w": entry([4], 0, 16, "F33")}, bytes(16), None, "unknown dtype 'F33'"),
    "dtype is a list": ({"w": entry([4], 0, 16, [1])}, bytes(16), None, "unknown dtype"),
    "boolean shape": ({"w": entry([True, 4], 0, 16)}, bytes(16), None, "expected non-negative integers"),
    "lacks offsets": ({"w": {"dtype": "F32", "shape": [4]}}, bytes(16), None, "lacks dtype, shape or data_offsets"),
    "two of a name": (b'{"a":1,"a":2}', b"", None, "two entries are called 'a'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_unreadable(tmp_path: Path, lie: str) -> None:
    header, data, length, message = LIES[lie]
    with pytest.raises(Unreadable) as caught:
        layerscope.analyze(write(tmp_path / "m.safetensors", header, data, length))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_random_bytes_never_crash_the_header(tmp_path_factory: pytest.TempPathFactory, raw: bytes, length: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + raw)
    try:
        read_header(path)
    except TargetError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.text(max_size=4), json_values, max_size=3), st.integers(0, 40))
def test_random_headers_never_crash(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], size: int
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "m.safetensors", header, bytes(size))
    try:
        layerscope.describe(path)
    except TargetError:
        pass


def sharded(folder: Path, weights: dict[str, np.ndarray], names: list[str] | None = None) -> Path:
    from safetensors.numpy import save_file

    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    keys = list(weights)
    half = len(keys) // 2
    save_file({k: weights[k] for k in keys[:half]}, folder / files[0])
    save_file({k: weights[k] for k in keys[half:]}, folder / files[1])
    listed = names or files
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: listed[i >= half] for i, k in enumerate(keys)}}))
    return index


@pytest.mark.parametrize("by", ["index", "folder", "folder without index"])
def test_shards_are_one_model(tmp_path: Path, weights: dict[str, np.ndarray], by: str) -> None:
    index = sharded(tmp_path, weights)
    if by == "folder without index":
        index.unlink()
    report = layerscope.analyze(index if by == "index" else tmp_path)
    whole = layerscope.analyze(weights)
    assert {r.name: dict(r.metrics) for r in report.rows} == {r.name: dict(r.metrics) for r in whole.rows}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/model.safetensors", "..", "a\\b", "x\0y"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path, weights: dict[str, np.ndarray], name: str) -> None:
    index = sharded(tmp_path, weights, ["model-00001-of-00002.safetensors", name])
    with pytest.raises(Refused, match="only files in the model's own folder are read"):
        read_shard_index(index)


def test_an_index_that_names_a_missing_file_says_which(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    index = sharded(tmp_path, weights, ["model-00001-of-00002.safetensors", "model-00009-of-00002.safetensors"])
    with pytest.raises(Unreadable, match="1 of 2 files are missing, the first model-00009"):
        layerscope.analyze(index)


def test_a_missing_shard_without_index_is_noticed(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    sharded(tmp_path, weights).unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    (tmp_path / "model-00003-of-00003.safetensors").write_bytes(b"")
    with pytest.raises(Unreadable):
        layerscope.analyze(tmp_path)


def test_a_name_tells_less_than_the_content(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, tmp_path / "weights.dat")
    assert layerscope.describe(tmp_path / "weights.dat").meta["format"] == "safetensors"
    (tmp_path / "model.safetensors").write_text("these are not the weights you are looking for")
    with pytest.raises(Unreadable, match="not safetensors"):
        layerscope.analyze(tmp_path / "model.safetensors")


def test_a_header_of_two_million_tensors_is_refused_before_it_is_built(tmp_path: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    raw = ("{" + ",".join(entry % i for i in range(2_000_000)) + "}").encode()
    (tmp_path / "m.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(Unreadable, match="header of"):
        layerscope.describe(tmp_path / "m.safetensors")
