"""Compare the CPU time and memory of layerscope diff with reading both files and the bare eigenproblems it needs.

python benchmarks/diffing.py [--layers 8] [--size 2048] [--write docs/benchmarks-diff.md]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BARE = """
import sys, time, numpy as np
from scipy.linalg import eigh
from safetensors import safe_open
import ml_dtypes
with safe_open(sys.argv[1], 'np') as a, safe_open(sys.argv[2], 'np') as b:
    for name in a.keys():
        first, second = a.get_tensor(name), b.get_tensor(name)
        if sys.argv[3] == 'read':
            first.view(np.uint8).max(), second.view(np.uint8).max()
            continue
        first, second = first.astype(np.float64), second.astype(np.float64)
        m = first.shape[1]
        delta = second - first
        np.linalg.eigvalsh(delta.T @ delta)
        np.linalg.eigh(first.T @ first)
        eigh(second.T @ second, subset_by_index=[m - 10, m - 1])
"""
DIFF = "import sys, layerscope; layerscope.diff(sys.argv[1], sys.argv[2], spectra=sys.argv[3] == 'spectra', jobs=1)"


def run(code: str, *words: str) -> tuple[float, float]:
    """Run a program; return its CPU seconds and its peak memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    script = f"{code}\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{words[-1]:8} {cpu:7.1f} s of CPU, {time.perf_counter() - start:7.1f} s", flush=True)
    return cpu, int(done.stdout.split()[-1]) / 1024


HIDDEN, MIDDLE, RANK = 4096, 11008, 16
SHAPES = {  # (out, in) of a block of a 7B model
    **{f"self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in "qkvo"},
    **{f"mlp.{part}_proj": (MIDDLE, HIDDEN) for part in ("gate", "up")},
    "mlp.down_proj": (HIDDEN, MIDDLE),
}


def write_adapter(folder: Path, blocks: int) -> tuple[str, str]:
    """Write a base model with blocks of 7B shape in bfloat16, and a LoRA adapter of all its matrices."""
    import ml_dtypes
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 22, np.float32).astype(ml_dtypes.bfloat16)
    base, adapter = {}, {}
    for i in range(blocks):
        for name, (rows, columns) in SHAPES.items():
            stem = f"model.layers.{i}.{name}"
            base[f"{stem}.weight"] = np.resize(noise, (rows, columns))
            adapter[f"base_model.model.{stem}.lora_A.weight"] = rng.standard_normal((RANK, columns), np.float32)
            adapter[f"base_model.model.{stem}.lora_B.weight"] = rng.standard_normal((rows, RANK), np.float32)
    (folder / "lora").mkdir()
    save_file(base, folder / "base7.safetensors")
    save_file(adapter, folder / "lora" / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted(n.split(".")[1] for n in SHAPES),
    }
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))
    return str(folder / "base7.safetensors"), str(folder / "lora")


def main() -> None:
    """Write two files, run all sides, and print or write the table."""
    import ml_dtypes
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=2, help="blocks of a 7B model that a LoRA adapter changes")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{name}.safetensors") for name in ("base", "tuned")]
        rng = np.random.default_rng(0)
        shape = (options.size, options.size)
        base = {f"layers.{i}.mlp.up_proj.weight": rng.standard_normal(shape, np.float32) for i in range(options.layers)}
        tuned = {name: value + 0.01 * rng.standard_normal(shape, np.float32) for name, value in base.items()}
        for file, weights in zip(files, (base, tuned), strict=True):
            save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}, file)
        size = Path(files[0]).stat().st_size / 2**20
        sides = {"read": run(BARE, *files, "read"), "bare": run(BARE, *files, "bare"),
                 "sizes": run(DIFF, *files, "sizes"), "spectra": run(DIFF, *files, "spectra")}  # fmt: skip
        lora = write_adapter(Path(folder), options.blocks)
        gib = Path(lora[0]).stat().st_size / 2**30
        lora_read, lora_diff = run(BARE.replace(", safe_open(sys.argv[2], 'np') as b", "").replace(
            ", b.get_tensor(name)", ", a.get_tensor(name)"), *lora, "read"), run(DIFF, *lora, "spectra")  # fmt: skip
    whole = sides["spectra"][0] / sides["bare"][0]
    start_up = run("import layerscope, layerscope.audits.model_diff", "start")[0]
    layer = options.size**2 * 8 / 2**20
    lines = [
        "# How fast layerscope diff is", "",
        f"`python benchmarks/diffing.py` compared two bfloat16 files of {size:.0f} MiB ({options.layers} matrices of "
        f"{options.size}×{options.size}) on one worker, all sides in one run.", "",
        "| what | CPU s | peak memory, MiB |", "| --- | --- | --- |",
        *(f"| {name} | {sides[key][0]:.1f} | {sides[key][1]:.0f} |" for key, name in (
            ("read", "reading both files"), ("bare", "reading both files and the bare eigenproblems"),
            ("sizes", "`diff --no-spectra`"), ("spectra", "`diff`"))), "",
        f"`diff` takes {whole:.2f} times the CPU of the bare eigenproblems. One layer in float64 takes {layer:.0f} "
        f"MiB, so "
        f"its peak is {(sides['spectra'][1] - sides['read'][1]) / layer:.1f} layers above that of reading. Starting "
        f"takes "
        f"{start_up:.1f} s of each.", "",
        f"A LoRA adapter of rank {RANK} on all {len(SHAPES) * options.blocks} matrices of {options.blocks} blocks of a "
        f"7B model (base of {gib:.1f} GiB in bfloat16): {lora_diff[0]:.1f} s of CPU and {lora_diff[1]:.0f} MiB, "
        f"against {lora_read[0]:.1f} s and {lora_read[1]:.0f} MiB for reading the base twice. B·A is never formed: one "
        f"product of the largest matrix would take {HIDDEN * MIDDLE * 8 / 2**20:.0f} MiB in float64.",
    ]  # fmt: skip
    print("\n".join(lines))
    if options.write:
        options.write.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
