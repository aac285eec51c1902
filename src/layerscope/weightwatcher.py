"""The face that WeightWatcher's users know: ``import layerscope.weightwatcher as ww``.

Layer ids, column names and definitions are those of weightwatcher 0.7.7; where it has a defect the number is the right
one, and docs/howto/weightwatcher.md lists every such place. An argument that is not supported raises
:class:`~layerscope.errors.UsageError` and says so: nothing is accepted and ignored.
"""

from __future__ import annotations

import logging
import math
import numbers
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope import api
from layerscope.edit import weights as surgery
from layerscope.errors import MissingExtra, TargetError, UnknownFormat, UnknownName, UsageError
from layerscope.metrics.random_matrix import traps_of
from layerscope.numerics import localization, matrices, randommatrix, spectra
from layerscope.settings import Settings
from layerscope.sources import _lora, lora, name_of, open_target
from layerscope.sources._layout import TensorInfo
from layerscope.sources.delta import plain_name
from layerscope.types import LayerRef, LayerReport

if TYPE_CHECKING:
    import pandas as pd

    from layerscope.types import Array, Floats

PL, POWER_LAW, POWERLAW = "PL", "power_law", "powerlaw"
TPL, TRUNCATED_POWER_LAW, E_TPL = "TPL", "truncated_power_law", "E_TPL"
XMIN_PEAK, CLIP_XMAX = "xmin_peak", "clip_xmax"
SVD, RMT, DETX, LAMBDA_MIN, AUTO = "svd", "rmt", "detX", "alpha_min", "auto"
RAW, EUCLIDEAN, CKA = "raw", "euclidean", "cka"
FAST_SVD, ACCURATE_SVD = "fast", "accurate"
WW_POWERLAW, POWERLAW_PACKAGE = "ww", "powerlaw"
PEFT_WITH_BASE = "with_base"
SUCCESS, FAILED, OVER_TRAINED, UNDER_TRAINED, UNKNOWN = "success", "failed", "over-trained", "under-trained", "unknown"
DEF_SAVE_DIR = "ww-img"
DEFAULT_MIN_EVALS, DEFAULT_MAX_EVALS, DEFAULT_MAX_N = 8, 15_000, 50_000
EPSILON = 1e-10  # added to each p of the entropy

SUPPORTED = ("dense", "conv1d", "conv2d", "embedding")
TYPES = (*SUPPORTED, "norm", "unknown")
SUMMED = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank")
FITS = {PL: (), POWER_LAW: (), TPL: ("truncated_power_law",), TRUNCATED_POWER_LAW: ("truncated_power_law",), E_TPL: ("e_tpl",)}
LOCALIZED = [f"{part}_{what}_{of}" for part in ("bulk", "tail") for what in ("mean", "var")
             for of in ("vec_entropy", "loc_ratio", "part_ratio")]  # fmt: skip
SIZES = ["layer_id", "name", "M", "N", "Q", "layer_type", "longname", "num_evals", "rf"]


class LAYER_TYPE:
    """Names of layer types."""

    UNKNOWN, STACKED, DENSE, CONV1D, CONV2D, EMBEDDING, NORM = (
        "unknown", "stacked", "dense", "conv1d", "conv2d", "embedding", "norm",
    )  # fmt: skip


class FRAMEWORK:
    """Names of frameworks."""

    UNKNOWN, PYTORCH, PYSTATEDICT, PYSTATEDICT_DIR = "unknown", "pytorch", "pystatedict", "pystatedict_dir"


@dataclass(frozen=True)
class _Layer:
    """One layer as 0.7.7 counts and names it."""

    id: int
    name: str
    longname: str
    type: str
    weight: Any  # array or torch tensor
    bias: Any = None
    owner: Any = None  # the torch module

    def array(self) -> Array:
        return _array(self.weight)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(N, M, rf)."""
        rf = math.prod(self.shape[2:])
        return max(self.shape[:2]), min(self.shape[:2]), rf


class WeightWatcher:
    """Analyse a model, layer by layer.

    :param model: a torch module, a state dict, a file or a folder; may be given to each method instead.
    :param framework: accepted for the sake of old code where it names what the model is; otherwise an error.
    :param base_model: every layer becomes W − W₀, matched by name.
    :param log_level: of the logger ``layerscope``.
    """

    def __init__(
        self, model: Any = None, framework: str | None = None, base_model: Any = None, log_level: Any = None
    ) -> None:
        self.model, self.base_model = model, base_model
        self.details: pd.DataFrame | None = None
        self.report: Any = None
        if log_level is not None:
            logging.getLogger("layerscope").setLevel(log_level)
        if framework is not None and model is not None and framework != self.infer_framework(model):
            raise UsageError(f"framework = {framework!r}, but the model is {self.infer_framework(model)!r}")

    def __repr__(self) -> str:
        return f"<layerscope's WeightWatcher of {name_of(self.model) if self.model is not None else 'no model'}>"

    # ------------------------------------------------------------------ looking

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
        """The layers that analyze would look at, with their sizes."""
        _refuse(
            min_size=(min_size, None, "use min_evals"), max_size=(max_size, None, "use max_evals"),
            glorot_fix=(glorot_fix, False, "it has no effect in 0.7.7"), savefig=(savefig, DEF_SAVE_DIR, NO_PICTURES),
            conv2d_fft=(conv2d_fft, False, NO_FFT), fft=(fft, False, NO_FFT),
            channels=(channels, None, "the layout is known from the model"),
            intra=(intra, False, "layerscope.describe(model, intra=True) lists the products"),
            stacked=(stacked, False, "layerscope.describe(model, stacked=True) lists them"),
            peft=(peft, False, "analyze(peft=True) lists the adapters"),
        )  # fmt: skip
        del conv2d_norm, base_model  # neither changes a size
        pool = pool and not ww2x
        chosen = _chosen(self._layers(model, start_ids), layers, min_evals, max_evals, max_N, pool)
        rows = [_sizes(layer, pool, i) for layer in chosen for i in range(1 if pool else layer.sizes[2])]
        return _frame(rows, SIZES if pool else [*SIZES, "slice_id"])

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
        """One row per layer; also kept as ``details``. ``seed`` is of the shuffles.

        :raises UsageError: an argument, or a combination, that is not supported.
        """
        _refuse(
            min_size=(min_size, None, "use min_evals"), max_size=(max_size, None, "use max_evals"),
            glorot_fix=(glorot_fix, False, "it has no effect in 0.7.7"), plot=(plot, False, NO_PICTURES),
            savefig=(savefig, DEF_SAVE_DIR, NO_PICTURES), conv2d_fft=(conv2d_fft, False, NO_FFT), fft=(fft, False, NO_FFT),
            deltas=(deltas, False, NO_PICTURES), channels=(channels, None, "the layout is known from the model"),
        )  # fmt: skip
        pool = pool and not ww2x
        if fit not in FITS:
            raise UnknownName("fit", str(fit), FITS)
        if svd_method not in (FAST_SVD, ACCURATE_SVD):
            raise UnknownName("svd_method", str(svd_method), (FAST_SVD, ACCURATE_SVD))
        if pl_package not in (WW_POWERLAW, POWERLAW_PACKAGE):
            raise UnknownName("pl_package", str(pl_package), (WW_POWERLAW, POWERLAW_PACKAGE))
        if intra and sparsify:
            raise UsageError("intra multiplies the layers themselves here: pass sparsify=False (0.7.7 puts a random matrix "
                             "between them)")  # fmt: skip
        whole = [name for name, on in (("intra", intra), ("stacked", stacked), ("peft", peft)) if on]
        if len(whole) > 1 or (whole and not pool):
            raise UsageError(f"{' and '.join([*whole, *([] if pool else ['pool=False'])])} contradict each other")
        base = base_model if base_model is not None else self.base_model
        if whole and base is not None:
            raise UsageError(f"base_model and {whole[0]} contradict each other")
        settings = Settings.weightwatcher(
            min_evals=max(2, min_evals) if not whole else 2,
            conv_factor=0.5 if conv2d_norm else 1.0,
            fix_fingers=fix_fingers or "",
            xmin_max=xmin_max,
            max_fingers=max_fingers,
            finger_thresh=float(finger_thresh),
            drop_top=_dropped(xmax),
            fits=("power_law", "marchenko_pastur", *(("mp_kde",) if mp_fit else ()), *FITS[fit]),
            randomize=randomize,
            vectors=vectors,
            inverse=inverse,
            seed=seed,
        )
        want = _Wanted(randomize, mp_fit, vectors, detX or ERG, fit, bool(fix_fingers == CLIP_XMAX), tolerance, settings)
        everything = self._layers(model, start_ids)
        if peft:
            rows = self._peft(model, everything, peft, want)
        elif whole:
            rows = self._arranged(everything, whole[0], want)
        else:
            chosen = _chosen(everything, layers, min_evals, max_evals, max_N, pool)
            theirs = self._layers(base, start_ids) if base is not None else None
            rows = self._rows(chosen, theirs, pool, conv2d_norm, want)
        lead, names = ["layer_id", "name"], sorted({name for row in rows for name in row} - {"layer_id", "name"})
        self.details = _frame(rows, lead + names)
        return self.details

    def get_details(self) -> pd.DataFrame | None:
        """What the last analyze returned."""
        return self.details

    def get_summary(self, details: pd.DataFrame | None = None) -> dict[str, float]:
        """Mean of the generalisation metrics over the fitted layers that are no embeddings."""
        frame = self.details if details is None else details
        if frame is None:
            raise UsageError("get_summary needs details: call analyze first")
        counted = frame[frame["layer_type"] != "embedding"] if "layer_type" in frame else frame
        counted = counted[counted["status"] != FAILED] if "status" in counted else counted
        return {name: float(counted[name].mean()) for name in SUMMED if name in counted and counted[name].notna().any()}

    def get_ESD(self, model: Any = None, layer: Any = None, random: bool = False, params: Any = None) -> Floats:
        """Eigenvalues of one layer, by id or name, ascending; ``random`` shuffles its entries first."""
        _refuse(params=(params, None, "call analyze with the arguments you want"))
        found = self._one(model, layer)
        ref, stack = _stack(found)
        if random:
            stack = randommatrix.shuffled(stack, [0, found.id])
        factor = 0.5 if ref.kind == "conv2d" else 1.0
        return spectra.scaled(spectra.esd(stack), factor).evals

    def get_Weights(self, model: Any = None, layer: Any = None, params: Any = None) -> list[Array]:
        """The matrices of one layer, by id or name: one, or one per kernel position."""
        _refuse(params=(params, None, "there are no other matrices"))
        return list(_stack(self._one(model, layer))[1])

    def get_framework_layer(self, model: Any = None, layer: Any = None, params: Any = None) -> Any:
        """The torch module of one layer, by id or name."""
        _refuse(params=(params, None, "there is nothing to choose"))
        found = self._one(model, layer)
        if found.owner is None:
            raise UsageError(f"{found.longname} comes from a state dict or a file: there is no module")
        return found.owner

    def distances(
        self, model_1: Any, model_2: Any, method: str = RAW, layers: Any = (), start_ids: int = 0, pool: bool = True,
        channels: Any = None,
    ) -> tuple[float, float, pd.DataFrame]:  # fmt: skip
        """(mean ΔW, mean Δb, a row per layer) of two models, layers matched by name.

        raw: ‖W₁−W₂‖_F of the tensors and of their biases; euclidean: mean over kernel positions; cka: a similarity,
        ‖W₁ᵀW₂‖_F / √(‖W₁ᵀW₁‖_F‖W₂ᵀW₂‖_F).

        :raises UsageError: the models have no layer in common.
        """
        _refuse(channels=(channels, None, "the layout is known from the model"), pool=(pool, True, "each layer is a row"))
        method = str(method).lower()
        if method not in (RAW, EUCLIDEAN, CKA):
            raise UnknownName("method", method, (RAW, EUCLIDEAN, CKA))
        ours = _filtered(self._layers(model_1, start_ids), layers)
        theirs = {plain_name(layer.longname): layer for layer in self._layers(model_2, start_ids)}
        rows = []
        for one in ours:
            other = theirs.get(plain_name(one.longname))
            if one.type not in SUPPORTED or other is None or other.shape != one.shape:
                continue
            delta_b, b_shape = 0.0, UNKNOWN
            if method == RAW and one.bias is not None and other.bias is not None and one.type == "dense":
                a, b = _wide(one.bias), _wide(other.bias)
                if a.shape == b.shape:
                    delta_b, b_shape = float(np.linalg.norm(a - b)), a.shape
            n, m, _ = one.sizes
            rows.append({"method": method, "layer_id": one.id, "name": one.name, "delta_W": _distance(one, other, method),
                         "delta_b": delta_b, "M": m, "N": n, "b_shape": b_shape, "longname": one.longname})  # fmt: skip
        if not rows:
            raise UsageError("the models have no layer of the same name and shape")
        frame = _frame(rows, list(rows[0])).set_index("layer_id")
        return float(frame["delta_W"].mean()), float(frame["delta_b"].mean()), frame

    def vector_metrics(self, vectors: Any) -> pd.DataFrame:
        """Length, entropies and localisation of one vector, of a list of them, or of the rows of a matrix."""
        many = [vectors] if getattr(vectors, "ndim", 0) == 1 else list(vectors)
        rows = []
        for vector in many:
            v = np.asarray(vector, np.float64)
            if v.ndim != 1 or not v.any():
                raise UsageError(f"vector_metrics takes vectors that are not zero, not one of shape {v.shape}")
            gauss = math.exp(-float(np.linalg.norm(v)) / 2) / math.sqrt(2 * math.pi)
            rows.append({"length": len(v), "entropy": gauss, "discrete_entropy": localization.entropy(v),
                         "localization_ratio": localization.localization_ratio(v),
                         "participation_ratio": localization.participation_ratio(v)})  # fmt: skip
        return _frame(rows, list(rows[0]) if rows else ["length"])

    # ------------------------------------------------------------------ changing

    def SVDSmoothing(
        self, model: Any = None, percent: float = 0.8, pool: bool = True, layers: Any = (), method: str = DETX,
        fit: str = PL, plot: bool = False, start_ids: int = 0, svd_method: str = FAST_SVD,
    ) -> Any:  # fmt: skip
        """Keep the largest singular values of each layer, in place, and return the model.

        ``method``: "detX" keeps detX_num, "alpha_min" num_pl_spikes, "rmt" num_spikes, "svd" the share ``percent`` (below
        0: all but that share of the largest), "auto" rmt where α > 6, else detX. layerscope.edit.smooth changes nothing
        in place.
        """
        _refuse(pool=(pool, True, NO_SLICES), plot=(plot, False, NO_PICTURES), fit=(fit, PL, "only PL gives xmin here"))
        if svd_method not in (FAST_SVD, ACCURATE_SVD):
            raise UnknownName("svd_method", str(svd_method), (FAST_SVD, ACCURATE_SVD))
        if method not in (DETX, LAMBDA_MIN, RMT, SVD, AUTO):
            raise UnknownName("method", str(method), (DETX, LAMBDA_MIN, RMT, SVD, AUTO))
        if not 0 < abs(percent) <= 1:
            raise UsageError(f"percent must lie between -1 and 1 and not be 0, not {percent!r}")
        settings = Settings.weightwatcher()

        def kept(stack: Array) -> int:
            if method == SVD:
                return int(percent * stack.shape[0] * stack.shape[2])
            spectrum = spectra.esd(stack)
            keep = {LAMBDA_MIN: "power_law", RMT: "spikes", DETX: "erg"}.get(method, "erg")
            if method == AUTO:
                fit = surgery.fits.fit_all(spectrum, settings, ("power_law",))["power_law"]
                keep = "spikes" if fit.ok and fit.params["alpha"] > 6 else "erg"
            return surgery.tail_length(spectrum, keep, settings)

        return self._rewritten(model, layers, start_ids, kept)

    def SVDSharpness(
        self, model: Any = None, pool: bool = True, layers: Any = (), plot: bool = False, start_ids: int = 0,
        *, seed: int = 0,
    ) -> Any:  # fmt: skip
        """Drop as many of the largest singular values as a shuffle of the layer has spikes, in place; return the model."""
        _refuse(pool=(pool, True, NO_SLICES), plot=(plot, False, NO_PICTURES))
        settings = Settings.weightwatcher(seed=seed)
        ref = LayerRef(0, "", (), "", "", "")
        return self._rewritten(model, layers, start_ids, lambda stack: -surgery.trap_count(stack, ref, settings))

    # ------------------------------------------------------------------ files

    @staticmethod
    def describe_pytorch_bins(model_dir: str | Path, **options: Any) -> pd.DataFrame:
        """describe of each ``pytorch_model*bin`` of a folder, with model_name and model_filename."""
        return _each_bin(model_dir, "describe", options)

    @staticmethod
    def analyze_pytorch_bins(model_dir: str | Path, **options: Any) -> pd.DataFrame:
        """analyze of each ``pytorch_model*bin`` of a folder, with model_name and model_filename."""
        return _each_bin(model_dir, "analyze", options)

    @staticmethod
    def extract_pytorch_bins(*_: Any, **__: Any) -> None:
        """Not needed: files are read where they lie, one tensor at a time.

        :raises UsageError: always.
        """
        raise UsageError("extract_pytorch_bins is not needed: give the folder itself to WeightWatcher, it is read lazily")

    @staticmethod
    def infer_framework(model: Any) -> str:
        """"pytorch", "pystatedict" or "pystatedict_dir"."""
        if _is_module(model):
            return FRAMEWORK.PYTORCH
        return FRAMEWORK.PYSTATEDICT if isinstance(model, Mapping) else FRAMEWORK.PYSTATEDICT_DIR

    # ------------------------------------------------------------------ inside

    def _layers(self, model: Any, start_ids: int) -> list[_Layer]:
        chosen = self.model if model is None else model
        if chosen is None:
            raise UsageError("no model: give one to WeightWatcher(model=…) or to the method")
        return _layers_of(chosen, start_ids)

    def _one(self, model: Any, layer: Any) -> _Layer:
        found = _filtered(self._layers(model, 0), [layer] if layer is not None else [])
        if layer is None or len(found) != 1:
            many = f"{len(found)} layers" if layer is not None else "no layer"
            raise UsageError(f"{many} named by {layer!r}; give one id or one name (describe lists them)")
        if found[0].type not in SUPPORTED:
            raise UsageError(f"{found[0].longname} is of type {found[0].type}: it has no spectrum")
        return found[0]

    def _rows(
        self, chosen: list[_Layer], base: list[_Layer] | None, pool: bool, conv2d_norm: bool, want: _Wanted
    ) -> list[dict[str, Any]]:
        arrays = _tensors(chosen, pool, conv2d_norm)
        if not arrays:
            return []
        against = None
        if base is not None:
            names = {plain_name(layer.longname): layer for layer in base}
            pairs = [(layer, names.get(plain_name(layer.longname))) for layer in chosen]
            matched = [(ours, theirs) for ours, theirs in pairs if theirs is not None and theirs.shape == ours.shape]
            if not matched:
                raise UsageError("the base model has no layer of the same name and shape")
            chosen = [ours for ours, _ in matched]
            arrays = _tensors(chosen, pool, conv2d_norm)
            renamed = [_Layer(o.id, o.name, o.longname, o.type, t.weight) for o, t in matched if t is not None]
            against = _tensors(renamed, pool, conv2d_norm)
        self.report = api.analyze(arrays, base=against, settings=want.settings)
        rows = []
        for layer in chosen:
            for i in range(1 if pool else layer.sizes[2]):
                row = self.report.layers[_key(layer, None if pool else i)]
                sizes = _sizes(layer, pool, i)
                rows.append(_row(sizes, row, want))
        return rows

    def _arranged(self, layers: list[_Layer], how: str, want: _Wanted) -> list[dict[str, Any]]:
        arrays = _tensors([layer for layer in layers if layer.type in SUPPORTED], True, True)
        self.report = api.analyze(arrays, settings=want.settings, **{how: True})
        rows = []
        for i, found in enumerate(row for row in self.report.rows if row.spectrum is not None):
            s = found.spectrum
            sizes = {"layer_id": i, "name": found.name.replace(".weight", ""), "longname": found.name, "layer_type": how,
                     "N": s.n, "M": s.m, "Q": s.n / s.m, "rf": s.k, "num_evals": len(s.evals)}  # fmt: skip
            rows.append(_row(sizes, found, want) | ({"Xflag": True} if how == "intra" else {}))
        return rows

    def _peft(self, model: Any, layers: list[_Layer], peft: Any, want: _Wanted) -> list[dict[str, Any]]:
        """B·A of each adapter; with the base also W and W + B·A."""
        if peft not in (True, PEFT_WITH_BASE):
            raise UnknownName("peft setting", str(peft), ("True", PEFT_WITH_BASE))
        chosen = self.model if model is None else model
        weights = {layer.longname: layer for layer in layers}
        arrays: dict[str, Array] = {}
        rows: list[tuple[str, str, tuple[int, ...]]] = []
        for factors, a, b, scale in _adapters(chosen, layers):
            update = _lora.product(factors, a, b, scale)
            base = weights.get(factors.stem) or weights.get(f"{factors.stem}.base_layer")
            matrices_of = {"lora_BA": update}
            if peft == PEFT_WITH_BASE:
                if base is None or base.shape != update.shape:
                    raise UsageError(f"peft='with_base': {factors.stem} has no base weight of shape {update.shape}")
                whole = base.array().astype(np.float64)
                matrices_of = {"base": whole, "lora_W_plus_AB": whole + update, **matrices_of}
            for kind, matrix in matrices_of.items():
                core = _lora.core(a, b, scale) if kind == "lora_BA" and factors.rank <= min(update.shape) else matrix
                arrays[f"{factors.label}.{kind}.weight"] = core
                rows.append((f"{factors.label}.{kind}", kind, update.shape))
        if not arrays:
            raise UsageError("peft: the model has no LoRA factors (lora_A, lora_B)")
        self.report = api.analyze(arrays, settings=want.settings)
        made = []
        for i, (name, kind, shape) in enumerate(rows):
            found = self.report.layers[f"{name}.weight"]
            count = len(found.spectrum.evals) if found.spectrum is not None else 0
            sizes = {"layer_id": i, "name": kind, "longname": name, "layer_type": "dense", "N": max(shape), "M": min(shape),
                     "Q": max(shape) / min(shape), "rf": 1, "num_evals": count, "peft": True}  # fmt: skip
            made.append(_row(sizes, found, want))
        return made

    def _rewritten(self, model: Any, layers: Any, start_ids: int, kept: Any) -> Any:
        """Truncate each layer, its ``kept(stack)`` largest singular values staying, or going where that is negative."""
        target = self.model if model is None else model
        if not (_is_module(target) or isinstance(target, Mapping)):
            raise UsageError("weights are changed in place: give a torch module or a state dict (layerscope.edit reads files)")
        chosen = _chosen(self._layers(model, start_ids), layers, DEFAULT_MIN_EVALS, 0, sys.maxsize, True)
        for layer in chosen:
            ref, stack = _stack(layer)
            count = kept(stack)
            if count == 0:
                continue
            each = math.ceil(abs(count) / len(stack)) if count > 0 else abs(count) // len(stack) or 1
            change = surgery.keep_largest if count > 0 else surgery.drop_largest
            parts = [change(matrix[None], each)[0] if each < matrix.shape[1] else matrix for matrix in stack]
            _write(target, layer, matrices.fold(np.stack(parts), ref))
        return target


NO_PICTURES = "pictures are drawn from layerscope's reports, not by this face"
NO_FFT = "its numbers are not the spectrum of the operator in 0.7.7"
NO_SLICES = "0.7.7 raises too"


@dataclass(frozen=True)
class _Wanted:
    """Which columns an analysis was asked for."""

    randomize: bool
    mp_fit: bool
    vectors: bool
    erg: bool
    fit: str
    fingers: bool
    tolerance: float
    settings: Settings


def _refuse(**arguments: tuple[Any, Any, str]) -> None:
    for name, (value, default, why) in arguments.items():
        if value is not default and value != default:
            raise UsageError(f"{name} = {value!r} is not supported: {why}")


def _dropped(xmax: Any) -> int:
    if xmax is None:
        return 0
    if isinstance(xmax, bool) or not isinstance(xmax, numbers.Integral):
        raise UsageError(f"xmax = {xmax!r} is not supported: None, or how many of the largest eigenvalues to leave out")
    return abs(int(xmax))


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("WeightWatcher's data frames", "pandas") from None
    return pd.DataFrame(rows, columns=columns)


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _array(weight: Any) -> Array:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(weight, torch.Tensor):
        from layerscope.sources._torch_tensor import to_numpy

        return to_numpy(weight)
    return np.asarray(weight)


def _wide(weight: Any) -> Floats:
    wide: Floats = _array(weight).astype(np.float64)
    return wide


def _layers_of(model: Any, start_ids: int) -> list[_Layer]:
    """Every module or ``.weight`` with the id and the names that 0.7.7 gives it."""
    if _is_module(model):
        return _modules(model, start_ids)
    if isinstance(model, Mapping):
        return _entries(model, start_ids or 1)
    if isinstance(model, str | Path):
        source = open_target(model)
        tensors, fetch = getattr(source, "tensors", None), getattr(source, "fetch", None)
        if tensors is None or fetch is None:
            if isinstance(source, lora.AdapterSource):
                tensors, fetch = source.weights.tensors, source.weights.fetch
            else:
                raise UnknownFormat(f"{model}: its tensors cannot be listed by name; use layerscope.analyze")
        wanted = [info for info in tensors if info.name.endswith((".weight", ".bias")) and not info.fault]
        return _entries({info.name: fetch(info.name) for info in wanted}, start_ids)
    raise UnknownFormat(f"cannot analyse a {name_of(model)}; known: torch modules, state dicts, files, folders")


def _modules(model: Any, start_ids: int) -> list[_Layer]:
    found = []
    for number, (path, owner) in enumerate(model.named_modules(), start_ids):
        weight = getattr(owner, "weight", None)
        torch = sys.modules["torch"]
        if not isinstance(weight, torch.Tensor) or weight.is_meta or weight.layout is not torch.strided:
            continue
        name = path.rpartition(".")[2] or type(owner).__name__
        bias = getattr(owner, "bias", None)
        found.append(_Layer(number, name, path or name, _module_type(owner, weight), weight.detach(), bias, owner))
    return found


def _module_type(owner: Any, weight: Any) -> str:
    from torch import nn

    name, axes = type(owner).__name__.lower(), weight.ndim
    if not weight.is_floating_point():
        return "unknown"
    for kind, classes, word, dims in (
        ("dense", nn.Linear, "linear", 2), ("conv1d", nn.Conv1d, "conv1d", 3), ("conv2d", nn.Conv2d, "conv2d", 4),
        ("embedding", (nn.Embedding, nn.EmbeddingBag), "embedding", 2),
    ):  # fmt: skip
        if axes == dims and (isinstance(owner, classes) or (word in name and "transpose" not in name)):
            return kind
    if name == "conv1d" and axes == 2:  # transformers' Conv1D is a Linear stored (in, out)
        return "dense"
    return "norm" if "norm" in name else "unknown"


def _entries(state: Mapping[str, Any], start: int) -> list[_Layer]:
    if "state_dict" in state and isinstance(state["state_dict"], Mapping):
        state = state["state_dict"]
    found = []
    for number, key in enumerate((key for key in state if str(key).endswith(".weight")), start):
        weight = state[key]
        if not hasattr(weight, "shape"):
            raise TargetError(f"{key} is no tensor but a {type(weight).__name__}; give a state dict of tensors")
        stem = str(key).removesuffix(".weight")
        kind = {2: "dense", 4: "conv2d", 1: "norm"}.get(len(weight.shape), "unknown")
        found.append(_Layer(number, stem, stem, kind, weight, state.get(f"{stem}.bias")))
    return found


def _filtered(layers: list[_Layer], wanted: Any) -> list[_Layer]:
    """Filter as 0.7.7 documents it: ids, types or names; negative ids, or a "-" before a name, drop."""
    items = [wanted] if isinstance(wanted, str | numbers.Integral) else list(wanted or ())
    if not items:
        return layers
    ids = [int(item) for item in items if isinstance(item, numbers.Integral)]
    types = [item for item in items if isinstance(item, str) and item in TYPES]
    names = [item for item in items if isinstance(item, str) and item not in TYPES]
    if len(ids) + len(types) + len(names) < len(items):
        raise UsageError(f"layers takes ids, types and names, not {items!r:.100}")
    if ids and min(ids) < 0 <= max(ids):
        raise UsageError(f"layers = {ids}: ids are all kept (0 or above) or all dropped (below 0)")
    drops = [name for name in names if name.startswith("-")]
    if drops and len(drops) < len(names):
        raise UsageError(f"layers = {names}: names are all kept, or all dropped by a '-' before them")
    known = {layer.id for layer in layers}, {x for layer in layers for x in (layer.name, layer.longname)}
    for item in ids:
        if abs(item) not in known[0]:
            raise UsageError(f"layers: no layer has the id {abs(item)}; describe() lists them")
    for item in names:
        if item.removeprefix("-") not in known[1]:
            raise UnknownName("layer", item.removeprefix("-"), known[1])

    def keeps(layer: _Layer) -> bool:
        if types and layer.type not in types:
            return False
        if ids and (layer.id in ids if ids[0] >= 0 else -layer.id not in ids) is False:
            return False
        if drops:
            return f"-{layer.name}" not in drops and f"-{layer.longname}" not in drops
        return not names or layer.name in names or layer.longname in names

    return [layer for layer in layers if keeps(layer)]


def _chosen(
    layers: list[_Layer], wanted: Any, min_evals: int, max_evals: int, max_n: int, pool: bool
) -> list[_Layer]:
    """The layers that 0.7.7 would analyse."""
    if max_evals and max_evals < min_evals:
        raise UsageError(f"max_evals = {max_evals} is below min_evals = {min_evals}: no layer has both")
    found = []
    for layer in _filtered(layers, wanted):
        if layer.type in SUPPORTED and 0 not in layer.shape:
            n, m, rf = layer.sizes
            count = m * rf if pool else m
            if count >= min_evals and (not max_evals or count <= max_evals) and n <= max_n:
                found.append(layer)
    return found


def _sizes(layer: _Layer, pool: bool, matrix: int) -> dict[str, Any]:
    n, m, rf = layer.sizes
    sizes = {"layer_id": layer.id, "name": layer.name, "M": m, "N": n, "Q": n / m, "layer_type": layer.type,
             "longname": layer.longname, "num_evals": m * rf if pool else m, "rf": rf}  # fmt: skip
    return sizes if pool else sizes | {"slice_id": matrix}


def _key(layer: _Layer, matrix: int | None) -> str:
    return f"{layer.longname}.weight" if matrix is None else f"{layer.longname}/{matrix}.weight"


def _tensors(layers: Iterable[_Layer], pool: bool, conv2d_norm: bool) -> dict[str, Array]:
    """The arrays to analyse: whole tensors, or their kernel positions, scaled by √(rf/2) as 0.7.7 scales those."""
    if pool:
        return {_key(layer, None): layer.array() for layer in layers}
    found = {}
    for layer in layers:
        stack = _stack(layer)[1]
        factor = math.sqrt(len(stack) / 2) if conv2d_norm and layer.type == "conv2d" else 1.0
        for i, matrix in enumerate(stack):
            found[_key(layer, i)] = matrix if factor == 1.0 else factor * matrix.astype(np.float64)
    return found


def _stack(layer: _Layer) -> tuple[LayerRef, Array]:
    array = layer.array()
    axes = "oi" + "dhw"[-(array.ndim - 2) :] * (array.ndim > 2)
    ref = LayerRef(layer.id, layer.longname, array.shape, axes, str(array.dtype), layer.type)
    return ref, matrices.unfold(array, ref)


def _row(sizes: dict[str, Any], found: LayerReport, want: _Wanted) -> dict[str, Any]:
    """One row of the data frame; NaN where there is no number."""
    nan, m, spectrum = math.nan, found.metrics, found.spectrum
    row: dict[str, Any] = {**sizes, "has_esd": spectrum is not None, "status": FAILED, "warning": ""}
    same = ("D", "alpha", "alpha_weighted", "lambda_max", "log_alpha_norm", "log_norm", "log_spectral_norm", "matrix_rank",
            "norm", "num_pl_spikes", "rank_loss", "sigma", "spectral_norm", "stable_rank", "sv_max", "sv_min", "xmax",
            "xmin")  # fmt: skip
    row |= {name: m.get(name, nan) for name in same}
    row["entropy"], row["weak_rank_loss"] = nan, nan
    if spectrum is not None:
        row["entropy"] = _entropy(spectrum.evals, int(m.get("matrix_rank", 0)))
        row["weak_rank_loss"] = int((spectrum.evals < want.tolerance).sum())
    row |= _fitted(found, want)
    if want.mp_fit:
        row |= _bulk(found)
    if want.randomize:
        row |= _shuffled(found)
    if want.erg:
        row |= {"detX_num": m.get("detX_num", nan), "num_ERG_spikes": m.get("detX_num", nan),
                "ERG_gap": m.get("ERG_gap", nan), "detX_val": m.get("detX_val", nan), "detX_val_unrescaled": nan}  # fmt: skip
        if spectrum is not None and "detX_val" in m:
            row["detX_val_unrescaled"] = float(m["detX_val"]) / float(spectrum.evals.mean())
    if want.vectors:
        row |= {name: m.get(name, nan) for name in LOCALIZED}
    if want.fingers:
        row |= {"num_fingers": m.get("num_fingers", nan), "raw_alpha": m.get("raw_alpha", nan)}
    return row


def _fitted(found: LayerReport, want: _Wanted) -> dict[str, Any]:
    """What the fit that was asked for says; status and warning."""
    m, row = found.metrics, {}
    if FITS[want.fit]:
        name = "alpha_e_tpl" if want.fit == E_TPL else "alpha_tpl"
        cutoff = "Lambda_e_tpl" if want.fit == E_TPL else "Lambda"
        row = {"alpha": m.get(name, math.nan), "Lambda": m.get(cutoff, math.nan), "sigma": math.nan, "D": math.nan}
        if name in m:
            top = math.log10(float(m["lambda_max"]))
            row |= {"alpha_weighted": float(m[name]) * top, "log_alpha_norm": _log_alpha_norm(found, float(m[name]))}
        if want.fit == E_TPL and "alpha_e_tpl" in m:
            fit = found.parts["weight"].fits["e_tpl"].params
            row |= {"xmin": fit["xmin"], "num_pl_spikes": int(fit["n_tail"])}
    alpha = row.get("alpha", m.get("alpha"))
    if alpha is None or math.isnan(float(alpha)):
        return row
    limits = want.settings.limits
    row["status"] = SUCCESS
    row["warning"] = OVER_TRAINED if alpha < limits.over_trained else UNDER_TRAINED if alpha > limits.under_trained else ""
    return row


def _log_alpha_norm(found: LayerReport, alpha: float) -> float:
    assert found.spectrum is not None
    top = float(found.spectrum.evals[-1])
    return alpha * math.log10(top) + math.log10(float(((found.spectrum.evals / top) ** alpha).sum()))


def _entropy(evals: Floats, rank: int) -> float:
    """−Σp ln p / ln R with 10⁻¹⁰ added to each p, 0 for rank one."""
    total = float(evals.sum())
    if rank <= 1 or total <= 0:
        return 0.0
    p = evals / total + EPSILON
    return float(-(p * np.log(p)).sum() / math.log(rank + EPSILON))


def _bulk(found: LayerReport) -> dict[str, Any]:
    """The Marchenko–Pastur fit: of 0.7.7 where its law has a σ, of square layers the right one in its units."""
    nan = math.nan
    names = ("W_scale", "bulk_max", "bulk_min", "mp_softrank", "num_spikes", "sigma_mp")
    kde, mp = (found.parts["weight"].fits.get(name) for name in ("mp_kde", "marchenko_pastur"))
    if kde is not None and kde.ok:
        p = kde.params
        return dict(zip(names, (p["scale"], p["bulk_max"], p["bulk_min"], p["softrank"], int(p["spikes"]), p["sigma"]),
                        strict=True))  # fmt: skip
    if mp is None or not mp.ok or found.spectrum is None:
        return dict.fromkeys(names, nan)
    s, p = found.spectrum, mp.params
    scale = math.sqrt(len(s.evals) / float(s.evals.sum()))
    values = (scale, p["bulk_max"], p["bulk_min"], p["bulk_max"] / float(s.evals[-1]), int(p["spikes"]),
              p["sigma"] * math.sqrt(s.n) * scale)  # fmt: skip
    return dict(zip(names, values, strict=True))


def _shuffled(found: LayerReport) -> dict[str, Any]:
    """The columns of randomize=True, means over the shuffles; traps are the median count of one shuffle."""
    nan, m = math.nan, found.metrics
    row = {name: m.get(name, nan) for name in ("max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist")}
    parts = [part for role, part in found.parts.items() if role.startswith("shuffle")]
    fits = [(part.spectrum, part.fits["marchenko_pastur"].params) for part in parts
            if part.spectrum is not None and part.fits["marchenko_pastur"].ok]  # fmt: skip
    names = ("rand_W_scale", "rand_bulk_max", "rand_bulk_min", "rand_mp_softrank", "rand_num_spikes", "rand_sigma_mp", "num_traps")
    if not fits:
        return row | dict.fromkeys(names, nan)
    scales = [math.sqrt(len(s.evals) / float(s.evals.sum())) if s.evals[-1] > 0 else nan for s, _ in fits]
    traps = int(median(traps_of(parts)))
    return row | {
        "rand_W_scale": fmean(scales),
        "rand_bulk_max": fmean(p["bulk_max"] for _, p in fits),
        "rand_bulk_min": fmean(p["bulk_min"] for _, p in fits),
        "rand_mp_softrank": fmean(p["bulk_max"] / float(s.evals[-1]) for s, p in fits),
        "rand_num_spikes": traps,
        "num_traps": traps,
        "rand_sigma_mp": fmean(p["sigma"] * math.sqrt(s.n) * c for (s, p), c in zip(fits, scales, strict=True)),
    }


def _distance(one: _Layer, other: _Layer, method: str) -> float:
    if method == RAW:
        return float(np.linalg.norm(_wide(one.weight) - _wide(other.weight)))
    found = []
    for a, b in zip(_stack(one)[1], _stack(other)[1], strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        if method == EUCLIDEAN:
            found.append(float(np.linalg.norm(x - y)))
        else:
            scale = math.sqrt(float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))
            found.append(float(np.linalg.norm(x.T @ y)) / scale if scale > 0 else 0.0)
    return fmean(found)


def _adapters(model: Any, layers: list[_Layer]) -> list[tuple[_lora.Factors, Array, Array, float]]:
    """(factors, A, B, scale) of each adapter of a live model or an adapter's folder."""
    if isinstance(model, str | Path) and lora.is_adapter(model):
        source = open_target(model)
        assert isinstance(source, lora.AdapterSource)
        weights, scale = source.weights.fetch, source.scales
    elif _is_module(model):
        by_name = {f"{layer.longname}.weight": layer for layer in layers}
        scale, weights = {}, lambda name: by_name[name].array()
    else:
        raise UsageError("peft needs a live model with its scaling, or an adapter's folder with its adapter_config.json")
    infos = [TensorInfo(f"{layer.longname}.weight", layer.shape, "float64") for layer in layers]
    found = []
    for factors in _lora.factors_of(infos)[0]:
        if factors.fault():
            raise UsageError(f"peft: {factors.label}: {factors.fault()}")
        a, b = (weights(factors.tensors[which].name) for which in "AB")
        found.append((factors, a, b, scale.get(factors.label) or _live_scale(model, factors)))
    return found


def _live_scale(model: Any, factors: _lora.Factors) -> float:
    """``scaling`` of the module that has the adapter, as PEFT keeps it."""
    for path, owner in model.named_modules():
        if path.removeprefix(_lora.PREFIX) == factors.stem:
            scaling = getattr(owner, "scaling", None)
            value = scaling.get(factors.adapter or "default") if isinstance(scaling, Mapping) else scaling
            if isinstance(value, int | float):
                return float(value)
    raise UsageError(f"peft: {factors.stem} does not say its scaling lora_alpha / r")


def _write(target: Any, layer: _Layer, array: Array) -> None:
    """Put a new weight in the place of the old one, in its dtype and on its device."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(layer.weight, torch.Tensor):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float64)))
        return
    state = target["state_dict"] if isinstance(target.get("state_dict"), Mapping) else target
    state[f"{layer.longname}.weight"] = np.ascontiguousarray(array.astype(layer.array().dtype))


def _each_bin(folder: str | Path, what: str, options: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    files = sorted(Path(folder).glob("pytorch_model*bin"))
    if not files:
        raise UsageError(f"{folder}: no pytorch_model*bin in it")
    frames = []
    for file in files:
        frame = getattr(WeightWatcher(model=file), what)(**options)
        frames.append(frame.assign(model_name=Path(folder).name, model_filename=file.name))
    return pd.concat(frames, ignore_index=True)
