"""Metrics compute one number (a column) from facts about one layer; ``@metric(...)`` on a function registers one.

The parameters of the function name the facts that it needs: ``weight`` (the Spectrum of W; likewise ``base``,
``input``, ``gradient``, ``fisher``), the name of a fit family (a successful Fit), ``learning`` (numbers that the source
measured in addition to the matrices), ``shuffles`` (one Measurement per shuffle), ``windows`` (a Measurement),
``modes`` (the eigenvectors), ``ref`` (the LayerRef) or ``settings``. A parameter with a default is optional. A metric
that is undefined for a layer raises :class:`~layerscope.errors.Absent` with the reason. Metrics of a lens that was not
used do not appear at all.
"""

from layerscope.metrics.metric_decorator import metric as metric
