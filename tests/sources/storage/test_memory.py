"""One tensor out of a 480 MB file: little more than the tensor is ever in memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.requirements import require

SIDE, COUNT = 3200, 12  # 41 MB each
SIZE = 4 * SIDE * SIDE
NAMES = [f"layers.{i}.weight" for i in range(COUNT)]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file of zeros after its first bytes, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + size)
    return path


def safetensors(folder: Path) -> Path:
    shape = [SIDE, SIDE]
    entries = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [i * SIZE, (i + 1) * SIZE]}
        for i, name in enumerate(NAMES)
    }
    raw = json.dumps(entries).encode()
    return sparse(folder / "m.safetensors", struct.pack("<Q", len(raw)) + raw, COUNT * SIZE)


def gguf(folder: Path) -> Path:
    require("gguf")
    header = b"GGUF" + struct.pack("<IQQ", 3, COUNT, 0)
    for i, name in enumerate(NAMES):
        header += struct.pack("<Q", len(name)) + name.encode()
        header += struct.pack("<IQQIQ", 2, SIDE, SIDE, 0, i * SIZE)
    return sparse(folder / "m.gguf", header + bytes(-len(header) % 32), COUNT * SIZE)


def onnx(folder: Path) -> Path:
    module = require("onnx")
    tensors, nodes = [], []
    for i, name in enumerate(NAMES):
        tensor = module.TensorProto(name=name, dims=[SIDE, SIDE], data_type=1, data_location=1)
        for key, value in (("location", "m.data"), ("offset", i * SIZE), ("length", SIZE)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        nodes.append(module.helper.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"], name=f"m{i}"))
    graph = module.helper.make_graph(nodes, "g", [], [], tensors)
    sparse(folder / "m.data", b"", COUNT * SIZE)
    (folder / "m.onnx").write_bytes(module.helper.make_model(graph).SerializeToString())
    return folder / "m.onnx"


def torch_zip(folder: Path) -> Path:
    torch = require("torch")
    torch.save({name: torch.zeros(SIDE, SIDE) for name in NAMES}, folder / "m.pt")
    return folder / "m.pt"


@pytest.mark.parametrize("write", [safetensors, gguf, onnx, torch_zip])
def test_one_tensor_of_a_large_file_takes_little_memory(tmp_path: Path, write: object) -> None:
    path = write(tmp_path)  # type: ignore[operator]
    code = (
        "import layerscope, numpy\n"
        "from layerscope.sources.opening import open_target\n"
        "import layerscope.analysis, importlib.util\n"
        "[__import__(m) for m in ('onnx', 'gguf.quants') if importlib.util.find_spec(m.split('.')[0])]\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "open_target({'w': numpy.eye(3)})\n"
        "before = peak()\n"
        f"source = open_target({str(path)!r})\n"
        "refs = [ref for ref in source.layers() if ref.axes]\n"
        "assert len(refs) == 12\n"
        "assert float(numpy.asarray(source.read(refs[7])).sum()) == 0.0\n"
        "print((peak() - before) / 1024)"
    )
    above = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert above < 60


def test_gguf_numbers_are_those_that_were_written(tmp_path: Path, rng: np.random.Generator) -> None:
    from layerscope.sources.opening import open_target

    path = gguf(tmp_path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4)
        file.write(struct.pack("<f", 7.0))
    source = open_target(path)
    last = source.read(list(source.layers())[-1])
    assert float(last[-1, -1]) == 7.0
