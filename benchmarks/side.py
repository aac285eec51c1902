"""Run one measurement in a separate process: ``side.py SIDE MODEL [--engine E] [--jobs N]`` prints a line of JSON."""

import argparse
import contextlib
import gc
import io
import json
import statistics
import time
from pathlib import Path


def main() -> None:
    """Measure and print the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("layerscope", "weightwatcher", "bare", "fit", "large-fit"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", default="serial")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--randomize", action="store_true")
    options = parser.parse_args()
    print(json.dumps(SIDES[options.side](options)))


def layerscope_side(options: argparse.Namespace) -> dict[str, float]:
    """Measure the default analysis of layerscope, from opening the file to the verdicts."""
    import layerscope
    from layerscope import analysis, registry

    if options.model.suffix == ".th":
        import torch  # noqa: F401  import it before the clock starts, as for weightwatcher
    for kind in registry.KINDS:
        registry.plugins(kind)
    settings = layerscope.Settings(jobs=options.jobs)
    before = peak()
    with Clock() as clock:
        report = analysis.analyze(options.model, settings=settings, engine=options.engine, randomize=options.randomize)
    matrices = sum(not layer.skipped for layer in report.rows)
    return {**clock.figures, "peak": peak() - before, "matrices": matrices}


def weightwatcher_side(options: argparse.Namespace) -> dict[str, float]:
    """Measure the default analysis of WeightWatcher for the same weights, already loaded as a state dict."""
    with contextlib.redirect_stdout(io.StringIO()):
        import weightwatcher

        weights = state_dict(options.model)
        with Clock() as clock:
            analyze_options = {"randomize": True, "mp_fit": True} if options.randomize else {}
            details = weightwatcher.WeightWatcher(model=weights).analyze(**analyze_options)
    return {**clock.figures, "matrices": len(details)}


def bare_side(options: argparse.Namespace) -> dict[str, float]:
    """Measure the float64 Gram matrix and its eigenvalues for every analyzed matrix, including shuffles."""
    import numpy as np

    from layerscope.settings import Settings

    matrices = []
    for weight in state_dict(options.model).values():
        array = weight.numpy()
        if array.ndim == 2 and array.dtype.kind == "f":
            matrices.append(array[None])
        elif array.ndim == 4:
            matrices.append(array.transpose(2, 3, 0, 1).reshape(-1, *array.shape[:2]))
    with Clock() as clock:
        for stack in matrices:
            wide = stack.astype(np.float64)
            if wide.shape[1] < wide.shape[2]:
                wide = wide.transpose(0, 2, 1)
            shuffles = Settings().shuffles_of(wide.shape[0] * wide.shape[2]) if options.randomize else 0
            for _ in range(1 + shuffles):  # a shuffle needs eigenvalues of a matrix of the same size
                np.linalg.eigvalsh(np.matmul(wide.transpose(0, 2, 1), wide))
    return {**clock.figures, "matrices": len(matrices)}


def fit_side(options: argparse.Namespace) -> dict[str, float]:
    """Measure the spectrum of a square Gaussian layer, and its power-law fit."""
    import numpy as np

    from layerscope.fits.power_law import power_law
    from layerscope.numerics.spectra import esd
    from layerscope.settings import Settings

    n = int(str(options.model))
    stack = np.random.default_rng(n).standard_normal((1, n, n), np.float32)
    repeats = max(1, 2048 // n)
    spectrum = esd(stack)
    settings = Settings()
    power_law(spectrum, settings)
    return {
        "esd": statistics.median(cpu(lambda: esd(stack)) for _ in range(repeats)),
        "fit": statistics.median(cpu(lambda: power_law(spectrum, settings)) for _ in range(repeats)),
    }


def large_fit_side(options: argparse.Namespace) -> dict[str, float]:
    """Measure the power-law fit to 15,000 eigenvalues, and 100 bootstrap resamples of 1,000."""
    import numpy as np

    from layerscope.fits.fitting import fit_all
    from layerscope.numerics.spectrum import Spectrum
    from layerscope.settings import Settings

    def spectrum(n: int) -> Spectrum:
        evals = np.sort((1 - np.random.default_rng(n).random(n)) ** -0.5)
        return Spectrum(evals, n, n, 1, 0.0)

    small, large = spectrum(1_000), spectrum(15_000)
    fit_all(small, Settings(), ("power_law",))
    before = peak()
    seconds = cpu(lambda: fit_all(large, Settings(), ("power_law",)))
    taken = peak() - before
    resampled = cpu(lambda: fit_all(small, Settings(bootstrap=100), ("bootstrap",)))
    return {"fit": seconds, "peak": taken, "bootstrap": resampled}


def state_dict(model: Path) -> dict:
    """Load the weights as a dict of torch tensors."""
    import torch
    from safetensors.torch import load_file

    if model.suffix == ".th":
        return torch.load(model, map_location="cpu", weights_only=True)["state_dict"]
    return load_file(model / "model.safetensors" if model.is_dir() else model)


class Clock:
    """Measure CPU and wall-clock seconds of a block over all threads of this process.

    Objects from imports are hidden from the garbage collector first. A collection that visits the objects of a
    framework takes a tenth of a second, and would add to a random measurement.
    """

    def __enter__(self) -> "Clock":
        gc.collect()
        gc.freeze()
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        now = time.process_time()  # of the whole process since its start, including imports
        self.figures = {"wall": time.perf_counter() - self.wall, "cpu": now - self.cpu, "whole": now}


def cpu(work: object) -> float:
    """Measure the CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak() -> int:
    """Return the peak resident size of this process in bytes (getrusage would include the parent's before exec)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


SIDES = {
    "layerscope": layerscope_side, "weightwatcher": weightwatcher_side, "bare": bare_side, "fit": fit_side,
    "large-fit": large_fit_side,
}  # fmt: skip

if __name__ == "__main__":
    main()
