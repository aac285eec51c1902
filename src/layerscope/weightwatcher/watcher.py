"""The class ``WeightWatcher``."""

from __future__ import annotations

import functools
import logging
import numbers
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.edit import weights as surgery
from layerscope.errors import UnknownName, UsageError
from layerscope.numerics import random_matrix, spectra
from layerscope.records.layers import LayerRef
from layerscope.settings import Settings
from layerscope.sources.targets import name_of
from layerscope.weightwatcher import adapters, analysis, pictures
from layerscope.weightwatcher.argument_checks import CHOICES, EXCLUSIVE, refuse_unsupported
from layerscope.weightwatcher.checkpoint_folders import run_on_each_bin
from layerscope.weightwatcher.columns import ColumnOptions, data_frame
from layerscope.weightwatcher.distances import compare_layers, measure_vectors
from layerscope.weightwatcher.layers import (
    Layer,
    is_module,
    layers_of,
    select_analyzable,
    select_layers,
    sizes_of,
    stack_of,
)
from layerscope.weightwatcher.names import (
    ACCURATE_SVD,
    AUTO,
    CKA,
    CLIP_XMAX,
    DEF_SAVE_DIR,
    DEFAULT_MAX_EVALS,
    DEFAULT_MAX_N,
    DEFAULT_MIN_EVALS,
    DETX,
    EUCLIDEAN,
    FAILED,
    FAST_SVD,
    FITS,
    FRAMEWORK,
    LAMBDA_MIN,
    NO_FFT,
    NO_PICTURES,
    NO_SLICES,
    PL,
    RAW,
    RMT,
    SIZES,
    SUMMED,
    SUPPORTED,
    SVD,
    WW_POWERLAW,
)
from layerscope.weightwatcher.weight_edits import count_singular_values, truncate

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.array_types import Array, Floats


class WeightWatcher:
    """Analyze a model layer by layer.

    :param model: a torch module, a state dict, a file or a folder; can be passed to each method instead.
    :param framework: framework of the model, for compatibility; an error if it does not match the model.
    :param base_model: model to subtract; each layer becomes W − W₀, layers matched by name.
    :param log_level: level of the logger ``layerscope``.
    """

    def __init__(
        self, model: Any = None, framework: str | None = None, base_model: Any = None, log_level: Any = None
    ) -> None:
        self.model, self.base_model = model, base_model
        self.details: pd.DataFrame | None = None
        self.left_out: dict[str, str] = {}  # layer → reason why the last analyze gave no row or no α for it
        self.report: Any = None
        if log_level is not None:
            logging.getLogger("layerscope").setLevel(log_level)
        if framework is not None and model is not None and str(framework).lower() != self.infer_framework(model):
            raise UsageError(f"framework={framework!r}: the model is {self.infer_framework(model)!r}; leave it out")

    def __repr__(self) -> str:
        return f"<layerscope.weightwatcher.WeightWatcher: {'no model' if self.model is None else name_of(self.model)}>"

    def describe(
        self,
        model: Any = None,
        layers: Any = (),
        min_evals: int = DEFAULT_MIN_EVALS,
        max_evals: int = DEFAULT_MAX_EVALS,
        max_N: int = DEFAULT_MAX_N,
        min_size: Any = None,
        max_size: Any = None,
        glorot_fix: bool = False,
        savefig: Any = DEF_SAVE_DIR,
        conv2d_fft: bool = False,
        conv2d_norm: bool = True,
        ww2x: bool = False,
        pool: bool = True,
        fft: bool = False,
        intra: bool = False,
        channels: Any = None,
        stacked: bool = False,
        start_ids: int = 0,
        base_model: Any = None,
        peft: Any = False,
    ) -> pd.DataFrame:
        """Return the layers that ``analyze`` would measure, with their sizes, one row per layer."""
        refuse_unsupported(
            min_size=(min_size, None, "use min_evals"), max_size=(max_size, None, "use max_evals"),
            glorot_fix=(glorot_fix, False, "it has no effect in weightwatcher 0.7.7; leave it out"),
            conv2d_fft=(conv2d_fft, False, NO_FFT), fft=(fft, False, NO_FFT),
            channels=(channels, None, "the layout is read from the model; leave it out"),
            intra=(intra, False, "use layerscope.describe(model, intra=True)"),
            stacked=(stacked, False, "use layerscope.describe(model, stacked=True)"),
            peft=(peft, False, "use analyze(peft=True)"),
        )  # fmt: skip
        del conv2d_norm, base_model, savefig  # these do not change any size
        pool = pool and not ww2x
        chosen = select_analyzable(self._list_layers(model, start_ids), layers, min_evals, max_evals, max_N, pool)
        rows = [sizes_of(layer, pool, i) for layer in chosen for i in range(1 if pool else layer.sizes[2])]
        return data_frame(rows, SIZES if pool else [*SIZES, "slice_id"])

    def analyze(
        self,
        model: Any = None,
        layers: Any = (),
        min_evals: int = DEFAULT_MIN_EVALS,
        max_evals: int = DEFAULT_MAX_EVALS,
        min_size: Any = None,
        max_size: Any = None,
        max_N: int = DEFAULT_MAX_N,
        glorot_fix: bool = False,
        plot: bool = False,
        randomize: bool = False,
        savefig: Any = DEF_SAVE_DIR,
        mp_fit: bool = False,
        conv2d_norm: bool = True,
        ww2x: bool = False,
        pool: bool = True,
        conv2d_fft: bool = False,
        fft: bool = False,
        deltas: bool = False,
        intra: bool = False,
        vectors: bool = False,
        channels: Any = None,
        stacked: bool = False,
        fix_fingers: Any = False,
        xmin_max: float | None = None,
        max_fingers: int = 10,
        finger_thresh: float = 1.0,
        fit: str = PL,
        sparsify: bool = True,
        detX: bool = False,
        ERG: bool = False,
        svd_method: str = FAST_SVD,
        tolerance: float = 1e-6,
        start_ids: int = 0,
        pl_package: str = WW_POWERLAW,
        xmax: Any = None,
        base_model: Any = None,
        peft: Any = False,
        inverse: bool = False,
        *,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Measure the layers and return a data frame with one row per layer, which is also stored as ``details``.

        :param plot: draw each layer into the folder ``savefig`` and, in a notebook, below the cell.
        :param seed: seed for the shuffles.
        :raises UsageError: an argument or a combination of arguments is not supported.
        """
        refuse_unsupported(
            min_size=(min_size, None, "use min_evals"), max_size=(max_size, None, "use max_evals"),
            glorot_fix=(glorot_fix, False, "it has no effect in weightwatcher 0.7.7; leave it out"),
            conv2d_fft=(conv2d_fft, False, NO_FFT),
            fft=(fft, False, NO_FFT), deltas=(deltas, False, NO_PICTURES),
            channels=(channels, None, "the layout is read from the model; leave it out"),
        )  # fmt: skip
        pool = pool and not ww2x
        for argument, choice in (("fit", fit), ("svd_method", svd_method), ("pl_package", pl_package)):
            if choice not in CHOICES[argument]:
                raise UnknownName(argument, str(choice), CHOICES[argument])
        if intra and sparsify:
            raise UsageError("intra=True needs sparsify=False: layerscope multiplies the layers themselves, without "
                             "the random matrix that weightwatcher 0.7.7 puts between them")  # fmt: skip
        base = base_model if base_model is not None else self.base_model
        arrangement = next((name for name, on in (("intra", intra), ("stacked", stacked), ("peft", peft)) if on), "")
        present = {
            "intra": intra, "stacked": stacked, "peft": peft, "pool=False": not pool, "base_model": base is not None,
            "layers": arrangement and layers is not None and np.size(layers),
        }  # fmt: skip
        for names, reason in EXCLUSIVE:
            conflicting = [name for name in names if present[name]]
            if len(conflicting) > 1:
                raise UsageError(f"choose one of {' and '.join(conflicting)}{reason.format(conflicting[-1])}")
        for name, value in (("tolerance", tolerance), ("finger_thresh", finger_thresh)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise UsageError(f"{name} must be a number, not {value!r:.40}")
        settings = Settings.weightwatcher(
            min_evals=max(2, min_evals) if not arrangement and isinstance(min_evals, int) else 2,
            conv_factor=0.5 if conv2d_norm else 1.0,
            fix_fingers=fix_fingers or "",
            xmin_max=xmin_max,
            max_fingers=max_fingers,
            finger_thresh=float(finger_thresh),
            drop_top=_count_dropped(xmax),
            fits=("power_law", "marchenko_pastur", *(("mp_kde",) if mp_fit else ()), *FITS[fit]),
            randomize=randomize,
            vectors=vectors,
            inverse=inverse,
            seed=seed,
        )
        options = ColumnOptions(
            randomize, mp_fit, vectors, detX or ERG, fit, bool(fix_fingers == CLIP_XMAX), tolerance, settings
        )
        all_layers = self._list_layers(model, start_ids)
        if peft:
            self.report, rows = adapters.analyze_adapters(self._require_model(model), all_layers, peft, options)
        elif arrangement:
            self.report, rows = analysis.measure_arrangement(all_layers, arrangement, options)
        else:
            chosen = select_analyzable(all_layers, layers, min_evals, max_evals, max_N, pool)
            base_layers = self._list_layers(base, start_ids) if base is not None else None
            self.report, rows = analysis.measure_layers(chosen, base_layers, pool, conv2d_norm, options)
        first_columns, other_columns = (
            ["layer_id", "name"],
            sorted({name for row in rows for name in row} - {"layer_id", "name"}),
        )
        self.details = data_frame(rows, first_columns + other_columns)
        self.left_out = analysis.explain_missing_rows(all_layers, rows, self.report)
        if plot and self.report is not None:
            pictures.draw(self.report, rows, savefig)
        return self.details

    def get_details(self) -> pd.DataFrame | None:
        """Return the data frame of the last ``analyze``; None before the first one."""
        return self.details

    def get_summary(self, details: pd.DataFrame | None = None) -> dict[str, float]:
        """Return the mean of each generalization metric over the fitted layers, embeddings excluded."""
        frame = self.details if details is None else details
        if frame is None:
            raise UsageError("get_summary has no details: call analyze first, or pass details=…")
        counted = frame[frame["layer_type"] != "embedding"] if "layer_type" in frame else frame
        counted = counted[counted["status"] != FAILED] if "status" in counted else counted
        return {name: float(counted[name].mean()) for name in SUMMED if name in counted and counted[name].notna().any()}

    def get_ESD(self, model: Any = None, layer: Any = None, random: bool = False, params: Any = None) -> Floats:
        """Return the eigenvalues of one layer (an id or a name), ascending; ``random`` shuffles its entries first."""
        refuse_unsupported(params=(params, None, "pass its entries to analyze as arguments"))
        chosen = self._find_layer(model, layer)
        ref, stack = stack_of(chosen)
        if random:
            stack = random_matrix.Shuffler(stack).shuffle([0, chosen.id])
        factor = Settings.weightwatcher().conv_factor if ref.kind == "conv2d" else 1.0
        return spectra.scaled(spectra.esd(stack), factor).evals

    def get_Weights(self, model: Any = None, layer: Any = None, params: Any = None) -> list[Array]:
        """Return the matrices of one layer, given by id or name: one matrix per kernel position."""
        refuse_unsupported(params=(params, None, "it would not change the matrices; leave it out"))
        return list(stack_of(self._find_layer(model, layer))[1])

    def get_framework_layer(self, model: Any = None, layer: Any = None, params: Any = None) -> Any:
        """Return the torch module of one layer of a live model, given by id or name."""
        refuse_unsupported(params=(params, None, "it would not change the module; leave it out"))
        chosen = self._find_layer(model, layer)
        if chosen.owner is None:
            raise UsageError(f"{chosen.longname} comes from a state dict or a file; only live models have modules")
        return chosen.owner

    def distances(
        self, model_1: Any, model_2: Any, method: str = RAW, layers: Any = (), start_ids: int = 0, pool: bool = True,
        channels: Any = None,
    ) -> tuple[float, float, pd.DataFrame]:  # fmt: skip
        """Return (mean ΔW, mean Δb, data frame with one row per layer) of two models, layers matched by name.

        :param method: "raw": ‖W₁−W₂‖_F of the tensors and of their biases; "euclidean": its mean over kernel positions;
            "cka": the similarity ‖W₁ᵀW₂‖_F / √(‖W₁ᵀW₁‖_F‖W₂ᵀW₂‖_F).
        :raises UsageError: the models have no layer in common.
        """
        refuse_unsupported(
            channels=(channels, None, "the layout is read from the model"), pool=(pool, True, "each layer has one row")
        )
        method = str(method).lower()
        if method not in (RAW, EUCLIDEAN, CKA):
            raise UnknownName("method", method, (RAW, EUCLIDEAN, CKA))
        rows = compare_layers(
            self._list_layers(model_1, start_ids), self._list_layers(model_2, start_ids), method, layers
        )
        frame = data_frame(rows, list(rows[0])).set_index("layer_id")
        return float(frame["delta_W"].mean()), float(frame["delta_b"].mean()), frame

    def vector_metrics(self, vectors: Any) -> pd.DataFrame:
        """Return length, entropies and localization of a vector, of a list of vectors, or of the rows of a matrix."""
        rows = measure_vectors(vectors)
        return data_frame(rows, list(rows[0]) if rows else ["length"])

    def SVDSmoothing(
        self, model: Any = None, percent: float = 0.8, pool: bool = True, layers: Any = (), method: str = DETX,
        fit: str = PL, plot: bool = False, start_ids: int = 0, svd_method: str = FAST_SVD,
    ) -> Any:  # fmt: skip
        """Keep only the largest singular values of each layer, in place, and return the model.

        :param method: number of singular values to keep: "detX" detX_num, "alpha_min" num_pl_spikes, "rmt" num_spikes,
            "svd" the share ``percent``, "auto" rmt where α > 6 and detX elsewhere.
        :param percent: share of the singular values that "svd" keeps; a negative share drops that share of the largest.
        """
        refuse_unsupported(
            pool=(pool, True, NO_SLICES), plot=(plot, False, NO_PICTURES), fit=(fit, PL, "only fit='PL' is supported")
        )
        if svd_method not in (FAST_SVD, ACCURATE_SVD):
            raise UnknownName("svd_method", str(svd_method), (FAST_SVD, ACCURATE_SVD))
        if method not in (DETX, LAMBDA_MIN, RMT, SVD, AUTO):
            raise UnknownName("method", str(method), (DETX, LAMBDA_MIN, RMT, SVD, AUTO))
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < abs(percent) <= 1:
            raise UsageError(f"percent={percent!r}: give a number between -1 and 1 other than 0")
        choose_count = functools.partial(count_singular_values, method, percent)
        return truncate(self._require_model(model), self._select_layers(model, layers, start_ids), choose_count)

    def SVDSharpness(
        self, model: Any = None, pool: bool = True, layers: Any = (), plot: bool = False, start_ids: int = 0,
        *, seed: int = 0,
    ) -> Any:  # fmt: skip
        """Drop as many of the largest singular values of each layer as it has traps, in place, and return the model."""
        refuse_unsupported(pool=(pool, True, NO_SLICES), plot=(plot, False, NO_PICTURES))
        settings = Settings.weightwatcher(seed=seed)
        ref = LayerRef(0, "", (), "", "", "")
        chosen = self._select_layers(model, layers, start_ids)
        return truncate(self._require_model(model), chosen, lambda stack: -surgery.trap_count(stack, ref, settings))

    @staticmethod
    def describe_pytorch_bins(model_dir: str | Path, **options: Any) -> pd.DataFrame:
        """Run ``describe`` on each ``pytorch_model*bin`` of a folder; add the columns model_name and model_filename."""
        return run_on_each_bin(WeightWatcher, model_dir, "describe", options)

    @staticmethod
    def analyze_pytorch_bins(model_dir: str | Path, **options: Any) -> pd.DataFrame:
        """Run ``analyze`` on each ``pytorch_model*bin`` of a folder; add the columns model_name and model_filename."""
        return run_on_each_bin(WeightWatcher, model_dir, "analyze", options)

    @staticmethod
    def extract_pytorch_bins(*_: Any, **__: Any) -> None:
        """Raise an error, because extraction is not needed: files are read in place, one tensor at a time.

        :raises UsageError: always.
        """
        raise UsageError(
            "extract_pytorch_bins is not needed: pass the folder to WeightWatcher, which reads one tensor at a time"
        )

    @staticmethod
    def infer_framework(model: Any) -> str:
        """Return "pytorch", "pystatedict" or "pystatedict_dir"."""
        if is_module(model):
            return FRAMEWORK.PYTORCH
        return FRAMEWORK.PYSTATEDICT if isinstance(model, Mapping) else FRAMEWORK.PYSTATEDICT_DIR

    def _require_model(self, model: Any) -> Any:
        chosen = self.model if model is None else model
        if chosen is None:
            raise UsageError("no model given: pass one to WeightWatcher(model=…) or to the method")
        return chosen

    def _list_layers(self, model: Any, start_ids: int) -> list[Layer]:
        return layers_of(self._require_model(model), start_ids)

    def _select_layers(self, model: Any, layers: Any, start_ids: int) -> list[Layer]:
        """Return the layers that smoothing and sharpening change."""
        return select_analyzable(self._list_layers(model, start_ids), layers, DEFAULT_MIN_EVALS, 0, sys.maxsize, True)

    def _find_layer(self, model: Any, layer: Any) -> Layer:
        matches = select_layers(self._list_layers(model, 0), [layer] if layer is not None else [])
        if layer is None or len(matches) != 1:
            count = f"{len(matches)} layers match" if layer is not None else "no layer given:"
            raise UsageError(f"{count} layer={layer!r}; give one id or one name (describe lists them)")
        if matches[0].type not in SUPPORTED:
            raise UsageError(
                f"{matches[0].longname} is of type {matches[0].type}, which has no spectrum; choose another layer"
            )
        return matches[0]


def _count_dropped(xmax: Any) -> int:
    if xmax is None:
        return 0
    if isinstance(xmax, bool) or not isinstance(xmax, numbers.Integral):
        raise UsageError(f"xmax={xmax!r} is not supported; give None or the number of largest eigenvalues to exclude")
    return abs(int(xmax))
