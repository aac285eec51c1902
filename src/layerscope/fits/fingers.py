"""Isolated large eigenvalues ("fingers") that make the tail look steeper than it is."""

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
    """The fewest largest eigenvalues that lower α by more than ``Settings.finger_thresh`` if removed.

    The fit also holds the α without them; the reported α is not changed. Use ``fix_fingers="clip_xmax"`` to report the
    α without these eigenvalues.
    """
    if settings.fix_fingers == "clip_xmax":
        params = power_law.params
        return Fit("fingers", ok=True, params={"fingers": params["fingers"], "alpha": params["alpha"]})
    logs = np.log(fittable_eigenvalues(spectrum, settings))
    if len(logs) <= settings.min_tail + 1:
        raise Absent("too few eigenvalues to remove any")
    raw = Tail(power_law.params["alpha"], 0, power_law.params["ks"])
    dropped, tail = clip_fingers(logs, raw, settings)
    return Fit("fingers", ok=True, params={"fingers": dropped, "alpha": tail.alpha})
