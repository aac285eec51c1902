"""JAX models: live trees, Flax's msgpack and Orbax's folders."""

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

msgpack = require("msgpack")
serialization = require("flax.serialization")


def names(target: Any) -> dict[str, tuple[Any, ...]]:
    return {row.name: (row.ref.shape, row.ref.axes, row.ref.kind) for row in layerscope.describe(target).rows}


def test_a_linen_model_its_train_state_and_its_files_agree(tmp_path: Path) -> None:
    jax, nn, optax = (require(name) for name in ("jax", "flax.linen", "optax"))
    from flax.training.train_state import TrainState

    class Net(nn.Module):  # type: ignore[name-defined,misc]
        @nn.compact
        def __call__(self, x: Any, words: Any) -> Any:
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x)).reshape(1, -1, 8)
            x = nn.MultiHeadDotProductAttention(num_heads=2)(x, x)
            return nn.Dense(5)(nn.RNN(nn.GRUCell(6))(x).mean(1) + nn.Embed(20, 6)(words))

    jnp = jax.numpy
    variables = Net().init(jax.random.key(0), jnp.ones((1, 6, 6, 3)), jnp.zeros((1,), int))
    found = names(variables)
    assert found["params.Conv_0.kernel"] == ((3, 3, 3, 8), "hwio", "conv2d")
    assert found["params.MultiHeadDotProductAttention_0.query.kernel"] == ((8, 8), "io", "dense")
    assert found["params.Embed_0.embedding"] == ((20, 6), "oi", "embedding")
    assert found["batch_stats.BatchNorm_0.mean"][2] == "buffer"
    raw = serialization.msgpack_serialize(serialization.to_state_dict(jax.tree.map(np.asarray, variables)))
    (tmp_path / "flax_model.msgpack").write_bytes(raw)
    assert names(tmp_path / "flax_model.msgpack") == names(tmp_path) == found
    state = TrainState.create(apply_fn=None, params=variables["params"], tx=optax.adam(1e-3))
    assert set(names(state)) == {name for name in found if name.startswith("params")}


def test_an_nnx_module_is_read_live() -> None:
    nnx = require("flax.nnx")

    class Net(nnx.Module):  # type: ignore[name-defined,misc]
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.fc = nnx.Linear(60, 70, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)

    found = names(Net(nnx.Rngs(0)))
    assert found["conv.kernel"][1:] == ("hwio", "conv2d")
    assert found["fc.kernel"] == ((60, 70), "io", "dense")


def test_torch_and_numpy_dicts_read_as_before_when_jax_is_there(rng: np.random.Generator) -> None:
    require("jax")
    torch = require("torch")
    mixed = {"b.weight": torch.ones(60, 70), "a.weight": rng.standard_normal((60, 70))}
    assert list(names(mixed)) == ["b.weight", "a.weight"]


def test_bfloat16_and_chunked_arrays(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    import ml_dtypes

    array = rng.standard_normal((70, 60)).astype(ml_dtypes.bfloat16)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    (tmp_path / "m.msgpack").write_bytes(serialization.msgpack_serialize({"fc": {"kernel": array}}))
    source = open_target(tmp_path / "m.msgpack")
    [ref] = source.layers()
    assert (ref.dtype, ref.shape) == ("bfloat16", (70, 60))
    np.testing.assert_array_equal(source.read(ref).astype(np.float32), array.astype(np.float32))


def ext(shape: Any, dtype: str, data: bytes) -> Any:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


HOSTILE = {
    "empty": b"",
    "a number": msgpack.packb(5),
    "text": msgpack.packb({"a": "b"}),
    "short data": msgpack.packb({"w": ext((60, 70), "float32", bytes(16))}),
    "impossible shape": msgpack.packb({"w": ext((1 << 62, 1 << 62), "float32", bytes(16))}),
    "negative shape": msgpack.packb({"w": ext((-1, -4), "float32", bytes(16))}),
    "no dtype": msgpack.packb({"w": ext((2, 2), "nothing", bytes(16))}),
    "no array": msgpack.packb({"w": msgpack.ExtType(1, b"\x05")}),
    "deep": b"\x81\xa1a" * 100_000 + b"\xc0",
    "wide": b"\xdf\xff\xff\xff\xff",
    "long": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "twice": b"\x82\xa1a\xc0\xa1a\xc0",
    "more": msgpack.packb({"w": ext((2, 2), "float32", bytes(16))}) + b"\xc0",
    "chunks": msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {}}),
    "chunks of nothing": msgpack.packb({"__msgpack_chunked_array__": True}),
    "unused byte": b"\xc1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_msgpack_is_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.msgpack").write_bytes(HOSTILE[name])
    with pytest.raises(TargetError):
        open_target(tmp_path / "m.msgpack")


@pytest.mark.parametrize("metadata", [b"", b"[]", b"{", b'{"tree_metadata": 5}', b'{"tree_metadata": {"a": {}}}'])
def test_orbax_metadata_that_is_none_is_unreadable(tmp_path: Path, metadata: bytes) -> None:
    require("tensorstore")
    (tmp_path / "_METADATA").write_bytes(metadata)
    with pytest.raises(Unreadable):
        open_target(tmp_path)


@pytest.mark.parametrize("key", ["..", "../../secret", "a/../../b", ""])
def test_orbax_keys_stay_in_the_folder(tmp_path: Path, key: str) -> None:
    require("tensorstore")
    step = {"key_metadata": [{"key": key, "key_type": 2}], "value_metadata": {"value_type": "jax.Array"}}
    import json

    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {"x": step}}))
    with pytest.raises(TargetError):
        open_target(tmp_path)


def test_the_last_step_of_a_run_is_read(tmp_path: Path) -> None:
    orbax, jax = require("orbax.checkpoint"), require("jax")
    for step, size in ((3, 60), (12, 70)):
        with orbax.StandardCheckpointer() as checkpointer:
            tree = {"params": {"fc": {"kernel": jax.numpy.ones((size, 50))}}}
            checkpointer.save(tmp_path.resolve() / str(step) / "default", tree)
    assert names(tmp_path)["params.fc.kernel"][0] == (70, 50)
    assert names(tmp_path / "3")["params.fc.kernel"][0] == (60, 50)


def test_a_walk_over_msgpack_sees_every_kind_of_value(tmp_path: Path) -> None:
    numbers = [None, True, -1, -200, 300, 70_000, 1 << 40, -(1 << 40), 0.5]
    values = [*numbers, "x" * 40, "x" * 300, b"b" * 300, [1] * 20, {}, msgpack.ExtType(5, bytes(16))]
    tree = {f"k{i}": value for i, value in enumerate(values)}
    data = msgpack.packb({**tree, "w": ext((60, 70), "float32", bytes(16800))}, use_bin_type=True)
    half, single = b"\xcb" + struct.pack(">d", 0.5), b"\xca" + struct.pack(">f", 0.5)
    (tmp_path / "m.msgpack").write_bytes(data.replace(half, single))
    assert list(names(tmp_path / "m.msgpack")) == ["w"]
