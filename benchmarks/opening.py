"""CPU time of describing or analyzing a model, for two checkouts of the package in alternating runs.

    python benchmarks/opening.py OLD_CHECKOUT NEW_CHECKOUT [--analyze] MODEL…

Without a MODEL, describes an index of 45,000 tensors in 30 files that it writes. Prints the median of each
side and their ratio.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 5
MEASURE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import layerscope
call = getattr(layerscope, sys.argv[3])
call(sys.argv[2])  # imports what this format needs
begin = time.process_time()
call(sys.argv[2])
print(time.process_time() - begin)
"""


def main() -> None:
    """Measure both checkouts on each model."""
    old, new, *models = [word for word in sys.argv[1:] if word != "--analyze"]
    call = "analyze" if "--analyze" in sys.argv else "describe"
    with tempfile.TemporaryDirectory() as folder:
        for model in models or [write_index(Path(folder))]:
            seconds: dict[str, list[float]] = {old: [], new: []}
            for _ in range(ROUNDS):
                for checkout, values in seconds.items():
                    command = [sys.executable, "-c", MEASURE, f"{checkout}/src", str(model), call]
                    values.append(float(subprocess.check_output(command, text=True)))
            before, after = (statistics.median(values) for values in seconds.values())
            print(f"{Path(model).name}: {before:.4f} s, {after:.4f} s, ratio {after / before:.2f}")


def write_index(folder: Path) -> str:
    """Write a mixture of experts with 45,000 small tensors, and return its folder."""
    names = [
        f"model.layers.{block}.mlp.experts.{expert}.{part}_proj.weight"
        for block in range(60)
        for expert in range(250)
        for part in ("gate", "up", "down")
    ]
    files: dict[str, str] = {}
    for shard in range(30):
        header = {
            name: {"dtype": "BF16", "shape": [4, 8], "data_offsets": [64 * i, 64 * i + 64]}
            for i, name in enumerate(names[shard::30])
        }
        raw, file = json.dumps(header).encode(), f"model-{shard + 1:05d}-of-00030.safetensors"
        (folder / file).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(64 * len(header)))
        files |= dict.fromkeys(header, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return str(folder)


if __name__ == "__main__":
    main()
