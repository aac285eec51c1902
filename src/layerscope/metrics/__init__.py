"""Columns: facts about one layer → one number. ``@metric(...)`` on a function makes it a column.

The parameters name the facts it needs: ``weight`` (its Spectrum; likewise ``base``, ``input``, ``gradient``,
``fisher``), a fit family by name (its Fit, already successful), ``learning`` (numbers that the source gave beside the
matrices), ``shuffles`` (a Measurement per shuffle) and ``windows`` (a Measurement) where they were asked for, ``modes``
(the eigenvectors), ``ref`` (the LayerRef) or ``settings``. A parameter with a default is optional. A metric that is
undefined for a layer raises :class:`~layerscope.errors.Absent` with the reason; those of a lens that was not used are
not there.
"""

from layerscope.metrics.metric_decorator import metric as metric
