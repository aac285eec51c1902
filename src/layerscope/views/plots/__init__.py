"""Plots: a report is converted to marks on axes, and the marks are drawn as a figure. One plot per module.

Every plot module defines a function ``data``, which returns a :class:`~layerscope.views.plots.marks.Picture`, and
these constants:

- ``SCOPE``: the subject of the plot, which determines the arguments of ``data``.

  - "layer": one layer, ``data(report, layer)``
  - "model": one report, ``data(report)``
  - "models": several reports, ``data(comparison)``
  - "matched": one layer of several models, ``data(comparison, layer)``
  - "run layer": one layer over the steps of runs, ``data(runs, layer)``
  - "run": whole runs, ``data(runs)``, which returns a list of pictures

- ``SECTION`` (optional): the section of the HTML page that shows the plot.
- ``NEEDS`` (optional): the setting that must be on; otherwise the plot is empty.

Two renderers draw any picture: ``draw(picture, ax)`` with matplotlib, and ``templates/charts.js`` in the HTML page.
"""
