"""Fingers: a few largest eigenvalues that stand apart and steepen the tail."""

from __future__ import annotations

import numpy as np

from layerscope.errors import Absent
from layerscope.fits import family
from layerscope.fits.power_law import Tail, clip_fingers, fittable_eigenvalues
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import Fit
from layerscope.settings import Settings


@family("fingers", ref="Martin & Mahoney, JMLR 22(165), §5 (finite-size effects)")
def fingers(spectrum: Spectrum, settings: Settings, power_law: Fit) -> Fit:
    """What clipping would do: the fewest largest eigenvalues whose removal lowers α by ``Settings.finger_thresh``.

    α itself is left as it is; ``fix_fingers="clip_xmax"`` is what reports the clipped one.
    """
    if settings.fix_fingers == "clip_xmax":
        params = power_law.params
        return Fit("fingers", ok=True, params={"fingers": params["fingers"], "alpha": params["alpha"]})
    logs = np.log(fittable_eigenvalues(spectrum, settings))
    if len(logs) <= settings.min_tail + 1:
        raise Absent("too few eigenvalues to clip any")
    raw = Tail(power_law.params["alpha"], 0, power_law.params["ks"])
    dropped, tail = clip_fingers(logs, raw, settings)
    return Fit("fingers", ok=True, params={"fingers": dropped, "alpha": tail.alpha})
