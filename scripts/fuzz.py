"""Fuzz every file reader with mutated small models, guided by code coverage; one process per format.

    python scripts/fuzz.py --seconds 600 --write docs/fuzzing.md

A case fails if opening the file or reading a layer raises anything but a LayerscopeError, takes more than
``MAX_SECONDS`` seconds, or takes more than ``MAX_MEMORY_MIB`` of memory. Needs atheris and the test dependencies.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
ROOT = Path(__file__).resolve().parent.parent
MAX_SECONDS, MAX_MEMORY_MIB = 10, 2048  # seconds, MiB
LAYER_ERRORS = (ValueError, OSError)  # errors from reading one layer; analyze() turns them into a failed layer
FORMATS = {  # name in tests/nets.py → the file that is mutated
    "safetensors": "net.safetensors", "torch file": "net.pt", "legacy torch file": "net.pth",
    "whole module": "whole.pt", "torchscript": "net.jit", "torch export": "net.pt2", "torch dcp": "dcp/.metadata",
    "npz": "net.npz", "gguf": "net.gguf", "onnx": "net.onnx", "tflite": "net.tflite", "msgpack": "net.msgpack",
    "tensorflow": "model.ckpt-7.index", "keras": "net.keras", "keras weights": "net.weights.h5",
}  # fmt: skip


def main() -> None:
    """Fuzz all formats, or one format in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="Total number of seconds for all formats.")
    parser.add_argument("--write", type=Path, help="Write the results to this Markdown page.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=Path, help=argparse.SUPPRESS)
    options, libfuzzer_options = parser.parse_known_args()
    if options.one:
        fuzz_format(options.one, options.seed, libfuzzer_options)
        return
    rows = [fuzz(name, options.seconds // len(FORMATS)) for name in FORMATS]
    if options.write:
        options.write.write_text(PAGE.format(seconds=options.seconds, rows="\n".join(rows)), "utf-8")
    print("\n".join(rows))
    if any("**" in row for row in rows):
        sys.exit(1)


def fuzz(name: str, seconds: int) -> str:
    """Fuzz one format; return its line of the table (cases, covered code edges, failures)."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
            f"from tests.nets import FORMATS, Net\nFORMATS[{name!r}][1](Net(), Path({scratch!r}))"
        )
        subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
        corpus = folder / "corpus"
        corpus.mkdir()
        seed = folder / FORMATS[name]
        shutil.copy(seed, corpus / "seed")
        limits = [
            f"-max_total_time={seconds}",
            f"-timeout={MAX_SECONDS}",
            f"-rss_limit_mb={MAX_MEMORY_MIB}",
            "-max_len=2000000",
        ]
        command = [sys.executable, __file__, "--one", name, "--seed", str(seed), str(corpus), *limits]
        command.append("-print_final_stats=1")
        process = subprocess.run(command, capture_output=True, text=True, cwd=scratch, check=False)
        output = process.stdout + process.stderr
        runs = re.search(r"number_of_executed_units:\s*(\d+)", output)
        edges = re.findall(r"cov: (\d+)", output)
        error = re.findall(r"^ === Uncaught Python exception: ===\n(.*)$|(ERROR: libFuzzer: .*)$", output, re.M)
        error_text = " ".join("".join(e) for e in error) or ("" if process.returncode == 0 else "died")
        finding = f"**{error_text}**" if error_text else "nothing"
        if "**" in finding:
            for crash in folder.glob("*-*"):
                shutil.copy(crash, Path(tempfile.gettempdir()) / f"fuzz-{name}-{crash.name}")
        return f"| {name} | {int(runs[1]) if runs else 0:,} | {edges[-1] if edges else 0} | {finding} |"


def fuzz_format(name: str, seed: Path, libfuzzer_options: list[str]) -> None:
    """Run libFuzzer on one format; each mutated file replaces the original file."""
    import atheris

    with atheris.instrument_imports(include=["layerscope"]):
        from layerscope import registry
        from layerscope.errors import LayerscopeError
        from layerscope.sources.opening import open_target

        registry.plugins("sources")
    target = seed.parent if seed.name.startswith(".") or seed.suffix == ".index" else seed
    started = time.monotonic()

    def run_case(data: bytes) -> None:
        seed.write_bytes(data)
        try:
            source = open_target(target)
            refs = [ref for ref in source.layers() if not ref.skipped and ref.params < 1 << 20]
        except LayerscopeError:
            return
        for ref in refs[:3]:
            try:
                source.read(ref)
            except (LayerscopeError, *LAYER_ERRORS):
                continue

    random.seed(0)
    os.environ["PYTHONHASHSEED"] = "0"
    atheris.Setup([sys.argv[0], *libfuzzer_options], run_case)
    atheris.Fuzz()
    print(f"{name}: {time.monotonic() - started:.0f} s")


PAGE = """# Fuzzing

Model files come from unknown sources, so every reader must survive malformed files. `make fuzz` mutates a small model
of each format, opens it and reads its first layers. Code coverage guides the mutations (atheris, which is libFuzzer
for Python). A case fails if it raises an exception that is not layerscope's own, if it takes ten seconds, or if it
takes two gigabytes of memory. These are the results of the last run, which took {seconds} seconds in total:

| format | cases | code edges of layerscope covered | failures |
|---|---|---|---|
{rows}

In addition, property-based tests (hypothesis) mutate the headers that layerscope itself parses, in every run of the
tests. `tests/sources/readers/test_hostile_files.py` contains the cases that were found by hand: pickles that would
run code, wrong sizes, links and paths that leave the folder, archive bombs, loops, and duplicate names.

Other formats are only as robust as the library that reads them: protobuf for ONNX, tensorstore for Orbax, and libhdf5
for HDF5. Fuzzing made libhdf5 loop and crash. layerscope therefore lists an HDF5 file in a separate process with
limits on time and memory, and maps contiguous data without the library.
"""

if __name__ == "__main__":
    main()
