"""Distributions fitted to a spectrum: one family per file, ``@family("name")`` on a function.

The function's parameters name the facts it needs: ``spectrum`` (the Spectrum), ``settings``, or another family's
name for that family's Fit. A parameter with a default is optional. It returns a
:class:`~layerscope.records.layers.Fit`; raising :class:`~layerscope.errors.Absent` is a failed fit with a reason.
"""

from layerscope.fits.family_decorator import family as family
