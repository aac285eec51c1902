"""Distributions fitted to a spectrum: one family per file, ``@family("name")`` on a function.

The parameters of the function name the facts that it needs: ``spectrum`` (the Spectrum), ``settings``, or the name of
another family (the Fit of that family). A parameter with a default is optional. The function returns a
:class:`~layerscope.records.layers.Fit`. If the fit is impossible, it raises :class:`~layerscope.errors.Absent` with the
reason.
"""

from layerscope.fits.family_decorator import family as family
