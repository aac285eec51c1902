"""TensorFlow's checkpoints and SavedModels, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, TargetNotFound, Unreadable
from layerscope.sources.opening import open_target
from layerscope.sources.readers.tensorflow_bundle import MAGIC
from tests.nets import field, table, write_bundle


def checkpoint(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    write_bundle(folder / "m", arrays)
    return folder / "m.index"


def test_names_axes_and_gates(tmp_path: Path, rng: np.random.Generator) -> None:
    shapes = {
        "conv1/weights": (3, 3, 16, 32), "MobilenetV1/Conv2d_1_depthwise/depthwise_weights": (3, 3, 60, 1),
        "up/conv2d_transpose_3/kernel": (2, 2, 7, 12), "lstm_1/lstm_cell/kernel": (20, 60),
        "lstm_1/lstm_cell/recurrent_kernel": (15, 60), "bn/moving_variance": (32,), "bn/gamma": (32,),
        "fc/kernel": (60, 70), "fc/kernel/Adam": (60, 70), "fc/bias": (70,), "global_step": (),
        "head/kernel/.ATTRIBUTES/VARIABLE_VALUE": (60, 10), "optimizer/m/1/.ATTRIBUTES/VARIABLE_VALUE": (60, 10),
        "head/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE": (60, 10),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    source = open_target(checkpoint(tmp_path, arrays))
    refs = {ref.name: ref for ref in source.layers()}
    assert refs["conv1/weights"].axes == "hwio"
    assert refs["MobilenetV1/Conv2d_1_depthwise/depthwise_weights"].groups == 60
    assert refs["up/conv2d_transpose_3/kernel"].axes == "hwoi"
    assert refs["lstm_1/lstm_cell/recurrent_kernel[o]"].shape == (15, 15)
    assert refs["bn/moving_variance"].kind == "buffer"
    assert (refs["head/kernel"].axes, refs["fc/kernel"].axes) == ("io", "io")
    assert not [name for name in refs if "Adam" in name or "optimizer" in name or "global_step" in name]
    np.testing.assert_array_equal(source.read(refs["fc/kernel"]), arrays["fc/kernel"])
    kernel = arrays["lstm_1/lstm_cell/kernel"]
    np.testing.assert_array_equal(source.read(refs["lstm_1/lstm_cell/kernel[g]"]), kernel[:, 30:45])


def test_a_checkpoint_opens_by_prefix_index_folder_and_saved_model(tmp_path: Path) -> None:
    arrays = {"fc/kernel": np.ones((60, 70), np.float32)}
    index = checkpoint(tmp_path, arrays)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/m"\nall_model_checkpoint_paths: "m"\n')
    saved = tmp_path / "saved"
    (saved / "variables").mkdir(parents=True)
    write_bundle(saved / "variables" / "variables", arrays)
    (saved / "saved_model.pb").write_bytes(b"\x08\x01")
    for target in (index, tmp_path / "m", tmp_path, saved, str(tmp_path / "m")):
        assert [row.name for row in layerscope.describe(target).rows] == ["fc/kernel"]
    with pytest.raises(TargetNotFound):
        layerscope.describe(tmp_path / "n")


def test_a_saved_model_without_variables_says_so(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(Unreadable, match="constants of the graph"):
        layerscope.describe(tmp_path)


def test_the_graph_of_objects_gives_the_names_of_the_program(tmp_path: Path) -> None:
    names = field(2, b"encoder/dense/kernel") + field(3, b"a/0/.ATTRIBUTES/VARIABLE_VALUE")
    attribute = field(1, b"VARIABLE_VALUE") + names
    graph = field(1, field(2, attribute))
    raw = np.ones((60, 70), "<f4").tobytes()
    text = bytes([len(graph)]) + bytes(4) + graph
    shape = field(2, field(1, 60)) + field(2, field(1, 70))
    entries = [
        (b"", field(1, 1)),
        (b"a/0/.ATTRIBUTES/VARIABLE_VALUE", field(1, 1) + field(2, shape) + field(5, len(raw))),
        (b"_CHECKPOINTABLE_OBJECT_GRAPH", field(1, 7) + field(4, len(raw)) + field(5, len(text))),
    ]
    (tmp_path / "m.index").write_bytes(table(entries))
    (tmp_path / "m.data-00000-of-00001").write_bytes(raw + text)
    assert [row.name for row in layerscope.describe(tmp_path / "m.index").rows] == ["encoder/dense/kernel"]


def test_tensorflow_agrees_where_it_is_installed(tmp_path: Path, rng: np.random.Generator) -> None:
    tf = pytest.importorskip(
        "tensorflow",
        reason="tensorflow, a large package that nothing else here needs, is not installed: pip install tensorflow",
    )
    arrays = {"a/kernel": rng.standard_normal((60, 70)).astype(np.float32), "a/bias": np.ones(70, np.float32)}
    reader = tf.train.load_checkpoint(str(checkpoint(tmp_path, arrays)).removesuffix(".index"))
    for name, array in arrays.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array)


def entry(shape: bytes, **changes: int) -> bytes:
    values = {"dtype": 1, "shard": 0, "offset": 0, "size": 16800, **changes}
    numbers = {"dtype": 1, "shard": 3, "offset": 4, "size": 5}
    return field(2, shape) + b"".join(field(numbers[name], value) for name, value in values.items())


SHAPE = field(2, field(1, 60)) + field(2, field(1, 70))
HOSTILE = {
    "empty": b"",
    "magic alone": MAGIC,
    "noise": bytes(range(256)) * 4 + MAGIC,
    "no header entry": table([(b"w", entry(SHAPE))]),
    "no shards": table([(b"", field(1, 0)), (b"w", entry(SHAPE))]),
    "a million shards": table([(b"", field(1, 1 << 40)), (b"w", entry(SHAPE))]),
    "big-endian": table([(b"", field(1, 1) + field(2, 1)), (b"w", entry(SHAPE))]),
    "another shard": table([(b"", field(1, 1)), (b"w", entry(SHAPE, shard=3))]),
    "beyond the data": table([(b"", field(1, 1)), (b"w", entry(SHAPE, offset=1 << 40))]),
    "another size": table([(b"", field(1, 1)), (b"w", entry(SHAPE, size=12))]),
    "an impossible shape": table([(b"", field(1, 1)), (b"w", entry(field(2, field(1, 1 << 62)) * 2))]),
    "a hundred axes": table([(b"", field(1, 1)), (b"w", entry(field(2, field(1, 1)) * 100))]),
    "shape of text": table([(b"", field(1, 1)), (b"w", field(1, b"x"))]),
    "no variables": table([(b"", field(1, 1))]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_indices_are_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.index").write_bytes(HOSTILE[name])
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16800))
    with pytest.raises(TargetError):
        open_target(tmp_path / "m.index")


def test_a_compressed_or_damaged_block_is_unreadable(tmp_path: Path) -> None:
    good = bytearray(table([(b"", field(1, 1)), (b"w", entry(SHAPE))]))
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16800))
    for at in range(len(good)):
        for value in (0xFF, 0x80, 0x01):
            changed = bytearray(good)
            changed[at] ^= value
            (tmp_path / "m.index").write_bytes(changed)
            try:
                source = open_target(tmp_path / "m.index")
            except TargetError:
                continue
            assert len(list(source.layers())) <= 1


def test_a_checkpoint_file_names_only_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    checkpoint(tmp_path / "outside", {"fc/kernel": np.ones((60, 70), np.float32)})
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("../outside/m", str(tmp_path / "outside" / "m"), "..", "x\\..\\..\\outside\\m"):
        (inner / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
        with pytest.raises((Unreadable, Refused)):
            open_target(inner)
