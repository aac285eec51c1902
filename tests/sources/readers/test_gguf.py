"""GGUF headers: scalars kept, vocabularies stepped over, nothing believed that does not fit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import TargetError, Unreadable
from layerscope.sources.opening import open_target
from tests.requirements import require

gguf = require("gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(tensors: list[bytes], pairs: list[bytes] | None = None, *, version: int = 3, counts: Any = None) -> bytes:
    pairs = pairs or []
    many = counts or (len(tensors), len(pairs))
    raw = b"GGUF" + struct.pack("<IQQ", version, *many) + b"".join(pairs) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32)


def tensor(name: str, dims: tuple[int, ...], code: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)


def written(folder: Path, arrays: dict[str, np.ndarray], kind: Any = None, **meta: int) -> Path:
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    for key, value in meta.items():
        writer.add_uint32(f"llama.{key.replace('__', '.')}", value)
    for name, array in arrays.items():
        data = array if kind is None else gguf.quantize(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "BF16", "F16"])
def test_every_quantisation_equals_the_package(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    array = rng.standard_normal((70, 256)).astype(np.float32)
    source = open_target(written(tmp_path, {"blk.0.ffn_up.weight": array}, kind))
    [ref] = source.layers()
    expected = gguf.dequantize(gguf.quantize(array, kind), kind).reshape(70, 256)
    np.testing.assert_array_equal(np.asarray(source.read(ref)).astype(np.float32), expected)
    assert ref.how == ("" if name in ("BF16", "F16") else f"decoded from {name}")


def test_random_blocks_of_every_known_type_are_decoded_as_the_package_does(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    from gguf import quants

    for kind in quants._type_traits:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 60, (4, 2 * size), dtype=np.uint8)
        data = header([tensor("w.weight", (2 * block, 4), kind.value)])
        (tmp_path / "m.gguf").write_bytes(data + raw.tobytes())
        source = open_target(tmp_path / "m.gguf")
        [ref] = source.layers()
        with np.errstate(all="ignore"):
            expected = gguf.dequantize(raw, kind).astype(np.float32)
            np.testing.assert_array_equal(np.asarray(source.read(ref)).astype(np.float32), expected)


def test_heads_come_from_the_metadata_and_names_tell_roles(tmp_path: Path, rng: np.random.Generator) -> None:
    names = {
        "blk.0.attn_q.weight": (128, 64), "blk.0.attn_k.weight": (32, 64), "blk.0.attn_output.weight": (64, 128),
        "blk.0.attn_qkv.weight": (192, 64), "blk.0.ffn_gate_exps.weight": (3, 80, 64), "token_embd.weight": (90, 64),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()}
    meta = {
        "attention__head_count": 8,
        "attention__head_count_kv": 2,
        "attention__key_length": 16,
        "embedding_length": 64,
    }
    refs = {ref.name: ref for ref in open_target(written(tmp_path, arrays, **meta)).layers()}
    assert refs["blk.0.attn_q.weight"].heads == 8
    assert refs["blk.0.attn_k.weight"].heads == 2
    assert (refs["blk.0.attn_output.weight"].heads, refs["blk.0.attn_output.weight"].heads_on) == (8, "i")
    assert [refs[f"blk.0.attn_qkv.weight[{x}]"].shape for x in "qkv"] == [(128, 64), (32, 64), (32, 64)]
    assert refs["token_embd.weight"].kind == "embedding"
    assert [refs[f"blk.0.ffn_gate_exps.{i}.weight"].shape for i in range(3)] == [(80, 64)] * 3


def test_a_split_file_is_read_whole_and_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for i, path in enumerate(parts):
        path.write_bytes(header([tensor(f"w{i}.weight", (60, 70))]) + bytes(4 * 60 * 70))
    assert [row.name for row in layerscope.describe(parts[1]).rows] == ["w0.weight", "w1.weight"]
    parts[0].unlink()
    with pytest.raises(Unreadable, match="1 of 2 parts are missing, the first m-00001"):
        layerscope.describe(parts[1])


HOSTILE = {
    "magic": b"GGUX" + bytes(60),
    "version 1": header([], version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "no tensors": header([]),
    "more tensors than bytes": header([], counts=(1 << 60, 0)),
    "more keys than bytes": header([], counts=(0, 1 << 60)),
    "more tensors than there are": header([tensor("w", (60, 70))], counts=(2, 0)) + bytes(16800),
    "an endless name": b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1 << 62),
    "a hundred axes": header([text("w") + struct.pack("<I", 100) + bytes(900)]),
    "an impossible size": header([tensor("w", (1 << 40, 1 << 40))]),
    "beyond the file": header([tensor("w", (60, 70), 0, 1 << 40)]) + bytes(100),
    "truncated data": header([tensor("w", (60, 70))]) + bytes(4 * 60 * 69),
    "half a block": header([tensor("w", (33, 70), 8)]) + bytes(10000),
    "twice": header([tensor("w", (60, 70))] * 2) + bytes(20000),
    "a value of no type": header([], [text("k") + struct.pack("<I", 99)]),
    "an endless array": header([], [text("k") + struct.pack("<IIQ", 9, 8, 1 << 60)]),
    "an array beyond the file": header([], [text("k") + struct.pack("<IIQ", 9, 4, 1 << 20)]),
    "arrays in arrays": header([], [text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 200]),
    "a string beyond the file": header([], [text("k") + struct.pack("<IQ", 8, 1 << 20)]),
    "an alignment of nothing": header([], [text("general.alignment") + struct.pack("<II", 4, 0)]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.gguf").write_bytes(HOSTILE[name])
    with pytest.raises(TargetError):
        open_target(tmp_path / "m.gguf")


def test_unknown_types_are_refused_by_number(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(header([tensor("w", (64, 70), 4), tensor("v", (64, 70), 9)]) + bytes(20000))
    reasons = [ref.skipped for ref in open_target(tmp_path / "m.gguf").layers()]
    assert reasons == ["ggml type 4, not decoded", "quantized as Q8_1, not decoded"]


def test_a_vocabulary_is_stepped_over(tmp_path: Path) -> None:
    words = b"".join(text(f"word {i}") for i in range(50_000))
    pair = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 50_000) + words
    data = header([tensor("w.weight", (60, 70))], [pair, text("general.name") + struct.pack("<I", 8) + text("n")])
    (tmp_path / "m.gguf").write_bytes(data + bytes(4 * 60 * 70))
    assert [ref.name for ref in open_target(tmp_path / "m.gguf").layers()] == ["w.weight"]
