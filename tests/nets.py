"""The same tiny net in every format: each function writes it, or makes it live, and returns the target."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.requirements import require

torch = require("torch")

HEADS, WIDTH = 4, 64


class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
    """One layer of each kind that a state dict tells apart by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(120, WIDTH)
        self.conv = torch.nn.Conv2d(16, 32, 3)
        self.attention = torch.nn.MultiheadAttention(WIDTH, HEADS)
        self.rnn = torch.nn.LSTM(WIDTH, 60)
        self.fc = torch.nn.Linear(WIDTH, 80)
        self.norm = torch.nn.LayerNorm(80)

    def forward(self, tokens: Any, image: Any) -> Any:
        """Every layer once."""
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        rows = self.rnn(x)[0]
        return self.norm(self.fc(x)), rows, self.conv(image)


INPUTS = (torch.zeros(5, 2, dtype=torch.long), torch.zeros(1, 16, 8, 8))


def numbers(net: Net) -> dict[str, np.ndarray]:
    """The state dict in NumPy."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def as_module(net: Net, folder: Path) -> Any:
    return net


def as_arrays(net: Net, folder: Path) -> Any:
    return numbers(net)


def as_npz(net: Net, folder: Path) -> Any:
    np.savez(folder / "net.npz", **numbers(net))
    return folder / "net.npz"


def as_safetensors(net: Net, folder: Path) -> Any:
    from safetensors.torch import save_file

    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


def as_huggingface(net: Net, folder: Path) -> Any:
    as_safetensors(net, folder).rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    return folder


def as_one_of_its_parts(net: Net, folder: Path) -> str:
    torch.save(net.state_dict(), folder / "mp_rank_00_model_states.pt")
    return str(folder)


def as_torch_file(net: Net, folder: Path) -> Any:
    torch.save(net.state_dict(), folder / "net.pt")
    return folder / "net.pt"


def as_legacy_torch_file(net: Net, folder: Path) -> Any:
    torch.save({"state_dict": net.state_dict()}, folder / "net.pth", _use_new_zipfile_serialization=False)
    return folder / "net.pth"


def as_whole_module(net: Net, folder: Path) -> Any:
    torch.save(net, folder / "whole.pt")
    return folder / "whole.pt"


def as_lightning(net: Net, folder: Path) -> Any:
    import argparse

    content = {"epoch": 1, "state_dict": net.state_dict(), "hyper_parameters": argparse.Namespace(rate=0.1)}
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def as_torchscript(net: Net, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net.eval(), INPUTS, check_trace=False).save(folder / "net.jit")
    return folder / "net.jit"


def as_exported(net: Net, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net.eval(), INPUTS), folder / "net.pt2")
    return folder / "net.pt2"


def as_dcp(net: Net, folder: Path) -> Any:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(net.state_dict(), checkpoint_id=folder / "dcp")
    return folder / "dcp"


def as_gguf(net: Net, folder: Path) -> Any:
    gguf = require("gguf")
    writer = gguf.GGUFWriter(folder / "net.gguf", "none")
    writer.add_token_list([f"token {i}" for i in range(1000)])
    for name, array in numbers(net).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "net.gguf"


def as_onnx(net: Net, folder: Path) -> Any:
    require("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), INPUTS, folder / "net.onnx", dynamo=False, opset_version=17)
    return folder / "net.onnx"


def kernels(net: Net) -> dict[str, dict[str, np.ndarray]]:
    """The weights by layer as Keras and Flax store them: (in, out), (h, w, in, out), (in, heads, size)."""
    state = numbers(net)
    q, k, v = state["attention.in_proj_weight"].reshape(3, WIDTH, WIDTH)
    bq, bk, bv = state["attention.in_proj_bias"].reshape(3, HEADS, -1)
    out = state["attention.out_proj.weight"].T.reshape(HEADS, -1, WIDTH)
    return {
        "embed": {"embedding": state["embed.weight"]},
        "conv": {"kernel": state["conv.weight"].transpose(2, 3, 1, 0), "bias": state["conv.bias"]},
        "query": {"kernel": q.T.reshape(WIDTH, HEADS, -1), "bias": bq},
        "key": {"kernel": k.T.reshape(WIDTH, HEADS, -1), "bias": bk},
        "value": {"kernel": v.T.reshape(WIDTH, HEADS, -1), "bias": bv},
        "out": {"kernel": out, "bias": state["attention.out_proj.bias"]},
        "rnn": {
            "kernel": state["rnn.weight_ih_l0"].T,
            "recurrent_kernel": state["rnn.weight_hh_l0"].T,
            "bias": state["rnn.bias_ih_l0"] + state["rnn.bias_hh_l0"],
        },
        "fc": {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]},
        "norm": {"gamma": state["norm.weight"], "beta": state["norm.bias"]},
    }


def as_keras_model(net: Net, folder: Path) -> Any:
    keras = require("keras")
    L, w = keras.layers, kernels(net)
    tokens, image = keras.Input((5,), dtype="int32"), keras.Input((8, 8, 16))
    embed, conv = L.Embedding(120, WIDTH, name="embed"), L.Conv2D(32, 3, name="conv")
    attention = L.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention")
    rnn, fc, norm = L.LSTM(60, name="rnn"), L.Dense(80, name="fc"), L.LayerNormalization(name="norm")
    x = embed(tokens)
    x = L.Add()([x, attention(x, x)])
    model = keras.Model([tokens, image], [norm(fc(x)), rnn(x), L.Lambda(_twice)(conv(image))])
    embed.set_weights(list(w["embed"].values()))
    conv.set_weights(list(w["conv"].values()))
    attention.set_weights([a for part in ("query", "key", "value", "out") for a in w[part].values()])
    rnn.set_weights(list(w["rnn"].values()))
    fc.set_weights(list(w["fc"].values()))
    norm.set_weights(list(w["norm"].values()))
    return model


def _twice(x: Any) -> Any:
    return 2 * x


def as_keras(net: Net, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_keras_model(net, folder).save(folder / "net.keras")
    return folder / "net.keras"


def as_keras_weights(net: Net, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_keras_model(net, folder).save_weights(folder / "net.weights.h5")
    return folder / "net.weights.h5"


def as_keras_legacy(net: Net, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_keras_model(net, folder).save(folder / "net.h5")
    return folder / "net.h5"


def flax_tree(net: Net) -> dict[str, Any]:
    """Parameters as Flax names them; an LSTM is eight kernels."""
    w = kernels(net)
    gates = {f"i{g}": {"kernel": k} for g, k in zip("ifgo", np.split(w["rnn"]["kernel"], 4, axis=1), strict=True)}
    recurrent = np.split(w["rnn"]["recurrent_kernel"], 4, axis=1)
    gates |= {f"h{g}": {"kernel": k} for g, k in zip("ifgo", recurrent, strict=True)}
    attention = {part: w[part] for part in ("query", "key", "value", "out")}
    norm = {"scale": w["norm"]["gamma"], "bias": w["norm"]["beta"]}
    plain = {name: w[name] for name in ("embed", "conv", "fc")}
    return {"params": {**plain, "attention": attention, "rnn": gates, "norm": norm}}


def as_pytree(net: Net, folder: Path) -> Any:
    jax = require("jax")
    return jax.tree.map(jax.numpy.asarray, flax_tree(net))


def as_msgpack(net: Net, folder: Path) -> Any:
    serialization = require("flax.serialization")
    (folder / "net.msgpack").write_bytes(serialization.msgpack_serialize(flax_tree(net)))
    return folder / "net.msgpack"


def as_orbax(net: Net, folder: Path) -> Any:
    orbax = require("orbax.checkpoint")
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve() / "orbax", as_pytree(net, folder))
    return folder / "orbax"


def as_orbax_zarr(net: Net, folder: Path) -> Any:
    orbax = require("orbax.checkpoint")
    orbax.PyTreeCheckpointer(use_ocdbt=False).save(folder.resolve() / "zarr", as_pytree(net, folder))
    return folder / "zarr"


def as_tensorflow(net: Net, folder: Path) -> Any:
    flat = {f"{layer}/{name}": array for layer, group in kernels(net).items() for name, array in group.items()}
    names = {"query": "attention/query", "key": "attention/key", "value": "attention/value", "out": "attention/out"}
    flat = {f"{names.get(n.split('/')[0], n.split('/')[0])}/{n.split('/')[1]}": a for n, a in flat.items()}
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    write_bundle(folder / "model.ckpt-7", flat)
    return folder


def varint(number: int) -> bytes:
    """As protocol buffers and LevelDB write numbers."""
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def checksum(raw: bytes) -> bytes:
    """CRC-32C, masked as LevelDB masks it."""
    crc = 0xFFFFFFFF
    for byte in raw:
        crc = CASTAGNOLI[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _table_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CASTAGNOLI = [_table_of(byte) for byte in range(256)]


def table(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A sorted table as TensorFlow writes its index, keys sharing their beginnings."""
    block, last = b"", b""
    for key, value in sorted(entries):
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    data = block + struct.pack("<II", 0, 1)
    empty = struct.pack("<II", 0, 1)
    handle = varint(0) + varint(len(data))
    index = varint(0) + varint(1) + varint(len(handle)) + b"\xff" + handle + struct.pack("<II", 0, 1)
    body = b"".join(part + b"\0" + checksum(part + b"\0") for part in (data, empty, index))
    meta = varint(len(data) + 5) + varint(len(empty))
    where = varint(len(data) + len(empty) + 10) + varint(len(index))
    return body + (meta + where).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def write_bundle(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    """A TensorFlow checkpoint of float32 arrays."""
    data, entries = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name, array in sorted(arrays.items()):
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, 1) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        entry += varint(6 << 3 | 5) + checksum(raw)
        entries.append((name.encode(), entry))
        data += raw
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def as_tflite(net: Net, folder: Path) -> Any:
    require("tflite")
    w = kernels(net)
    square = {name: w[name]["kernel"].reshape(WIDTH, WIDTH).T for name in ("query", "key", "value", "out")}
    gates = [g.T for name in ("kernel", "recurrent_kernel") for g in np.split(w["rnn"][name], 4, axis=1)]
    operators: list[tuple[str, list[tuple[str, np.ndarray]]]] = [
        ("GATHER", [("embed", w["embed"]["embedding"])]),
        ("CONV_2D", [("", np.empty(0)), ("conv", w["conv"]["kernel"].transpose(3, 0, 1, 2)), ("b", w["conv"]["bias"])]),
        *[("FULLY_CONNECTED", [("", np.empty(0)), (name, array)]) for name, array in square.items()],
        ("FULLY_CONNECTED", [("", np.empty(0)), ("fc", w["fc"]["kernel"].T), ("fc/bias", w["fc"]["bias"])]),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", [("", np.empty(0)), *((f"rnn{i}", g) for i, g in enumerate(gates))]),
    ]
    (folder / "net.tflite").write_bytes(tflite_bytes(operators))
    return folder / "net.tflite"


def tflite_bytes(operators: list[tuple[str, list[tuple[str, np.ndarray]]]]) -> bytes:
    """A flatbuffer with these operators, each with named constants; an empty array is an input of the graph."""
    import flatbuffers
    import tflite as t

    b = flatbuffers.Builder(1 << 20)
    buffers, tensors, made, codes = [_buffer(b, t, None)], [], [], []
    for name, inputs in operators:
        indices = []
        for label, array in inputs:
            if array.size:
                buffers.append(_buffer(b, t, array))
            number = len(buffers) - 1 if array.size else 0
            kind = {"float32": 0, "int8": 9}[str(array.dtype)] if array.size else 0
            tensors.append(_tensor(b, t, label, array.shape, number, kind))
            indices.append(len(tensors) - 1)
        made.append(_operator(b, t, len(codes), indices))
        t.OperatorCodeStart(b)
        code = getattr(t.BuiltinOperator, name)
        t.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        t.OperatorCodeAddBuiltinCode(b, code)
        codes.append(t.OperatorCodeEnd(b))
    tensor_list, operator_list = _offsets(b, tensors), _offsets(b, made)
    t.SubGraphStart(b)
    t.SubGraphAddTensors(b, tensor_list)
    t.SubGraphAddOperators(b, operator_list)
    graphs = _offsets(b, [t.SubGraphEnd(b)])
    code_list, buffer_list = _offsets(b, codes), _offsets(b, buffers)
    t.ModelStart(b)
    t.ModelAddVersion(b, 3)
    t.ModelAddOperatorCodes(b, code_list)
    t.ModelAddSubgraphs(b, graphs)
    t.ModelAddBuffers(b, buffer_list)
    b.Finish(t.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _buffer(b: Any, t: Any, array: np.ndarray | None) -> int:
    data = (
        None if array is None else b.CreateNumpyVector(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8))
    )
    t.BufferStart(b)
    if data is not None:
        t.BufferAddData(b, data)
    return int(t.BufferEnd(b))


def _tensor(b: Any, t: Any, name: str, shape: tuple[int, ...], buffer: int, kind: int) -> int:
    label, sizes = b.CreateString(name), b.CreateNumpyVector(np.array(shape, np.int32))
    t.TensorStart(b)
    t.TensorAddShape(b, sizes)
    t.TensorAddType(b, kind)
    t.TensorAddBuffer(b, buffer)
    t.TensorAddName(b, label)
    return int(t.TensorEnd(b))


def _operator(b: Any, t: Any, code: int, inputs: list[int]) -> int:
    numbers = b.CreateNumpyVector(np.array(inputs, np.int32))
    t.OperatorStart(b)
    t.OperatorAddOpcodeIndex(b, code)
    t.OperatorAddInputs(b, numbers)
    return int(t.OperatorEnd(b))


def _offsets(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


Writer = Callable[[Net, Path], Any]
SAME_NAMES: dict[str, tuple[str, Writer]] = {  # name → (source, writer); rows as in the live dict
    "module": ("torch_module", as_module),
    "arrays": ("arrays", as_arrays),
    "npz": ("npz", as_npz),
    "safetensors": ("safetensors", as_safetensors),
    "huggingface": ("huggingface", as_huggingface),
    "torch file": ("torch_file", as_torch_file),
    "legacy torch file": ("torch_file", as_legacy_torch_file),
    "whole module": ("torch_file", as_whole_module),
    "lightning": ("torch_file", as_lightning),
    "tensor parallel": ("tensor_parallel", as_one_of_its_parts),
    "torchscript": ("torchscript", as_torchscript),
    "torch export": ("torch_export", as_exported),
    "torch dcp": ("torch_dcp", as_dcp),
    "gguf": ("gguf", as_gguf),
}
OTHER_NAMES: dict[str, tuple[str, Writer]] = {
    "onnx": ("onnx", as_onnx),
    "keras model": ("keras_model", as_keras_model),
    "keras": ("keras_file", as_keras),
    "keras weights": ("keras_file", as_keras_weights),
    "keras legacy": ("keras_file", as_keras_legacy),
    "pytree": ("arrays", as_pytree),
    "msgpack": ("flax_msgpack", as_msgpack),
    "orbax": ("orbax", as_orbax),
    "orbax zarr": ("orbax", as_orbax_zarr),
    "tensorflow": ("tensorflow", as_tensorflow),
    "tflite": ("tflite", as_tflite),
}
FORMATS = {**SAME_NAMES, **OTHER_NAMES}
