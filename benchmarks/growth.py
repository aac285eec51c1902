"""How CPU time and memory grow with the number of names, files, marks or patterns in a target.

    python benchmarks/growth.py [CASE…] [--sizes 1000 10000 100000] [--write docs/growth.md]

Each case writes a target of n parts and runs one command on it in a separate process. A case whose time grows faster
than ``LINEAR`` from the second size to the last, or whose memory does, is named at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np

LINEAR = 1.35  # largest exponent of growth that passes; n log n has about 1.1 between these sizes
SECONDS = 300  # longest run
NOISE = 0.5  # seconds that do not count: start-up and its variation
Command = list[str]


def safetensors(path: Path, shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file of zeros in float16."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + np.full(end // 2, 0.5, np.float16).tobytes())
    return path


def plain_names(folder: Path, n: int) -> Command:
    """One file with n matrices in numbered blocks."""
    return ["describe", str(safetensors(folder / "m.safetensors", {f"h.{i}.w.weight": [2, 2] for i in range(n)}))]


def unrelated_names(folder: Path, n: int) -> Command:
    """One file with n matrices whose names share nothing."""
    names = {f"{i * 2654435761 % 2**32:08x}": [2, 2] for i in range(n)}
    return ["describe", str(safetensors(folder / "m.safetensors", names))]


def long_names(folder: Path, n: int) -> Command:
    """Names of n characters: dots, digits and letters."""
    names = {".".join(["a"] * (n // 2)): [2, 2], "1" * n: [2, 2], "x" * n + ".weight": [2, 2], "." * n: [2, 2]}
    return ["describe", str(safetensors(folder / "m.safetensors", names))]


def factors(folder: Path, n: int) -> Command:
    """An adapter of n modules with an alpha_pattern and a rank_pattern of n entries."""
    shapes: dict[str, list[int]] = {}
    for i in range(n):
        shapes |= {f"base_model.model.h.{i}.q.lora_A.weight": [1, 2], f"base_model.model.h.{i}.q.lora_B.weight": [2, 1]}
    safetensors(folder / "adapter_model.safetensors", shapes)
    pattern = {f"h.{i}.q": 2 for i in range(n)}
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "alpha_pattern": pattern, "rank_pattern": pattern}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return ["describe", str(folder)]


def parametrized(folder: Path, n: int) -> Command:
    """n weights in two parts: weight_g and weight_v."""
    shapes: dict[str, list[int]] = {}
    for i in range(n):
        shapes |= {f"h.{i}.weight_g": [2, 1], f"h.{i}.weight_v": [2, 2]}
    return ["describe", str(safetensors(folder / "m.safetensors", shapes))]


def experts(folder: Path, n: int) -> Command:
    """n experts of one block."""
    names = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": [2, 2] for i in range(n)}
    return ["describe", str(safetensors(folder / "m.safetensors", names))]


def index_of_files(folder: Path, n: int) -> Command:
    """An index with the names of n files; only the first file exists."""
    safetensors(folder / "m-0.safetensors", {"h.0.weight": [2, 2]})
    files = {f"h.{i}.weight": f"m-{i}.safetensors" for i in range(n)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return ["describe", str(folder)]


def files_of_folder(folder: Path, n: int) -> Command:
    """A folder with n copies of one model in other precisions."""
    safetensors(folder / "model.safetensors", {"h.weight": [2, 2]})
    for i in range(n):
        (folder / f"model.p{i}.safetensors").touch()
    return ["describe", str(folder)]


def shards(folder: Path, n: int) -> Command:
    """n / 100 shards with one matrix each."""
    count = n // 100
    for i in range(count):
        safetensors(folder / f"model-{i + 1:05d}-of-{count:05d}.safetensors", {f"h.{i}.weight": [2, 2]})
    return ["describe", str(folder)]


def members(folder: Path, n: int) -> Command:
    """An npz with n arrays."""
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, np.ones((2, 2), np.float32))
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        for i in range(n):
            archive.writestr(f"h{i}.npy", buffer.getvalue())
    return ["describe", str(folder / "m.npz")]


def torch_entries(folder: Path, n: int) -> Command:
    """A torch file with n entries in one storage."""
    import torch

    storage = torch.ones(4)
    torch.save({f"h.{i}.weight": storage.view(2, 2) for i in range(n)}, folder / "m.pt")
    return ["describe", str(folder / "m.pt")]


def nested(folder: Path, n: int) -> Command:
    """A torch file of n lists of one number: no weights, many objects."""
    import torch

    torch.save({"model": {"h.weight": torch.ones(2, 2)}, "log": [[i] for i in range(n)]}, folder / "m.pt")
    return ["describe", str(folder / "m.pt")]


def onnx_nodes(folder: Path, n: int) -> Command:
    """An ONNX graph of n matrix products in a row."""
    from onnx import TensorProto, helper, numpy_helper, save

    tensors = [numpy_helper.from_array(np.ones((2, 2), np.float32), f"w{i}") for i in range(n)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(n)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x0", f"x{n}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    save(helper.make_model(graph), str(folder / "m.onnx"))
    return ["describe", str(folder / "m.onnx")]


def gguf_tensors(folder: Path, n: int) -> Command:
    """A GGUF file of n tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "m.gguf", "llama")
    for i in range(n):
        writer.add_tensor(f"blk.{i}.ffn_up.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ["describe", str(folder / "m.gguf")]


def hdf5_groups(folder: Path, n: int) -> Command:
    """A Keras weights file with n layers."""
    import h5py

    with h5py.File(folder / "m.weights.h5", "w") as file:
        for i in range(n // 10):
            file.create_dataset(f"layers/dense_{i}/vars/0", data=np.ones((2, 2), np.float32))
    return ["describe", str(folder / "m.weights.h5")]


def marks(folder: Path, n: int) -> Command:
    """A journal whose one record is damaged, with n marks of records in it."""
    from layerscope.persistence.run_journal import MAGIC

    header = json.dumps({"schema": journal_schema(), "name": "run"}).encode() + b"\n"
    body = b"".join(struct.pack("<4sQI", b"STEP", 16 * n // 2, 1) for _ in range(n))
    (folder / "m.layerscope").write_bytes(MAGIC + header + body)
    return ["history", str(folder / "m.layerscope")]


def journal_schema() -> int:
    """Return the schema of this version."""
    from layerscope.persistence.report_json import SCHEMA

    return SCHEMA


def renamed(folder: Path, n: int) -> Command:
    """Two models of n matrices without a common name."""
    for side in "ab":
        safetensors(folder / f"{side}.safetensors", {f"{side}{i * 2654435761 % 2**32:08x}": [2, 2] for i in range(n)})
    return ["distances", str(folder / "a.safetensors"), str(folder / "b.safetensors")]


def based(folder: Path, n: int) -> Command:
    """A model of n matrices against a base model with one more."""
    for side, count in (("a", n), ("b", n + 1)):
        safetensors(folder / f"{side}.safetensors", {f"h.{i}.w.weight": [2, 2] for i in range(count)})
    return ["analyze", str(folder / "a.safetensors"), "--base", str(folder / "b.safetensors"), "--dry-run"]


def report(folder: Path, n: int) -> Command:
    """The analysis of n layers that are too small, as a page."""
    path = safetensors(folder / "m.safetensors", {f"h.{i}.w.weight": [2, 2] for i in range(n // 10)})
    return ["analyze", str(path), "-o", str(folder / "m.html")]


def wrong_name(folder: Path, n: int) -> Command:
    """A layer filter that matches none of n layers."""
    path = safetensors(folder / "m.safetensors", {f"h.{i}.w.weight": [2, 2] for i in range(n)})
    return ["analyze", str(path), "--layers", "h.q.weight", "--dry-run"]


def settings(folder: Path, n: int) -> Command:
    """A tokenizer and a configuration of n settings beside a small model."""
    safetensors(folder / "model.safetensors", {"h.weight": [2, 2]})
    (folder / "config.json").write_text(json.dumps({f"setting_{i}": i for i in range(n)}))
    (folder / "tokenizer.json").write_text(json.dumps({f"word {i}": i for i in range(n)}))
    return ["describe", str(folder)]


def modules(folder: Path, n: int) -> Command:
    """A modules.json that lists n folders; only one exists."""
    (folder / "0_T").mkdir()
    safetensors(folder / "0_T" / "model.safetensors", {"h.weight": [2, 2]})
    listed = [{"idx": i, "name": str(i), "path": f"{i}_T", "type": "T"} for i in range(n)]
    (folder / "modules.json").write_text(json.dumps(listed))
    return ["describe", str(folder)]


CASES: tuple[Callable[[Path, int], Command], ...] = (
    plain_names, unrelated_names, long_names, factors, parametrized, experts, index_of_files, files_of_folder, shards,
    members, torch_entries, nested, onnx_nodes, gguf_tensors, hdf5_groups, marks, renamed, based, report, wrong_name,
    settings, modules,
)  # fmt: skip


def main() -> None:
    """Measure the cases, print the table and name those that grow too fast."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="Names of cases; all by default.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--write", type=Path, help="Write the table to this Markdown page.")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        (case,) = (case for case in CASES if case.__name__ == options.cases[0])
        print(json.dumps(case(options.make, options.sizes[0])))
        return
    rows, steep = [], []
    for case in CASES:
        if options.cases and case.__name__ not in options.cases:
            continue
        measured = [measure(case, n) for n in options.sizes]
        rows.append(f"| {(case.__doc__ or '').rstrip('.')} | " + " | ".join(
            f"{seconds:.1f} s, {mib:,.0f} MiB" for seconds, mib in measured) + " |")  # fmt: skip
        print(case.__name__, rows[-1], flush=True)
        if exponent([s for s, _ in measured], options.sizes, NOISE) > LINEAR:
            steep.append(f"{case.__name__} (time)")
        if exponent([mib for _, mib in measured], options.sizes, 50) > LINEAR:
            steep.append(f"{case.__name__} (memory)")
    if options.write:
        head = "| target of n parts | " + " | ".join(f"n = {n:,}" for n in options.sizes) + " |"
        table = "\n".join([head, "| --- " * (1 + len(options.sizes)) + "|", *rows])
        options.write.write_text((Path(__file__).parent / "growth.md.in").read_text("utf-8").format(table=table))
    if steep:
        sys.exit(f"faster than linear: {', '.join(steep)}")


def measure(case: Callable[[Path, int], Command], n: int) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MiB of a command on a target of n parts."""
    with tempfile.TemporaryDirectory() as scratch:
        making = [sys.executable, __file__, case.__name__, "--make", scratch, "--sizes", str(n)]
        arguments = json.loads(subprocess.check_output(making, text=True))  # a child inherits the memory of its parent
        command = [sys.executable, "-m", "layerscope", *arguments]
        with open(os.devnull, "w") as nothing:
            process = subprocess.Popen(command, stdout=nothing, stderr=nothing, cwd=scratch, preexec_fn=limit)
            deadline = time.monotonic() + 2 * SECONDS
            while True:
                pid, _, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(0.05)


def limit() -> None:
    """End a run after ``SECONDS`` of CPU time."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def exponent(values: list[float], sizes: list[int], noise: float) -> float:
    """Return the exponent of growth between the last two sizes; 0 where the last value is small."""
    before, after = values[-2:]
    if after < 4 * noise:
        return 0.0
    return log(after / max(before, noise)) / log(sizes[-1] / sizes[-2])


if __name__ == "__main__":
    main()
