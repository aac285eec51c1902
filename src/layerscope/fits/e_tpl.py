"""E_TPL: a truncated power law that starts at the peak of the spectrum, so that the fit does not choose xmin."""

from __future__ import annotations

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.power_law import fittable_eigenvalues, histogram_peak
from layerscope.fits.truncated_power_law import fit_truncated
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


@family("e_tpl", ref="Yang et al., arXiv 2202.02842, §3.2 (E-TPL)")
def e_tpl(spectrum: Spectrum, settings: Settings) -> Fit:
    """Truncated power law λ^−α e^−Λλ above the peak of the histogram of log λ (the fullest of 100 bins).

    Most of the spectrum is in the tail, whatever its shape. The parameters therefore vary less from model to model than
    those of a tail with a searched xmin.
    """
    values = fittable_eigenvalues(spectrum, settings)
    logs = np.log(values)
    tail = values[int(np.searchsorted(logs, histogram_peak(logs))) :]
    if len(tail) < settings.min_tail or tail[-1] <= tail[0] * (1 + 1e-9):
        raise Absent(f"{len(tail)} eigenvalues above the peak of the histogram")
    excess = float(np.log(tail / tail[0]).mean())
    alpha, cutoff, density = fit_truncated(tail, 1 + 1 / excess)
    params = {
        "alpha": alpha,
        "Lambda": cutoff,
        "xmin": float(tail[0]),
        "n_tail": len(tail),
        "loglik": float(density.sum()),
    }
    return Fit("e_tpl", ok=True, params=params)
