"""Pictures: a report → marks on axes → a figure. One picture per file, found by its name.

``data`` puts a picture into numbers and words (:class:`~layerscope.views.plots.marks.Picture`). ``SCOPE`` says of
what: a layer ("layer": ``data(report, layer)``), a report ("model": ``data(report)``), several ("models":
``data(comparison)``), one layer of several ("matched": ``data(comparison, layer)``), of a layer over the steps of
runs ("run layer": ``data(runs, layer)``), or of whole runs ("run": ``data(runs)``, a list of pictures); ``SECTION``,
where the page shows it; ``NEEDS``, if there is one, the setting without which it is empty. Pens draw any of them:
``draw(picture, ax)`` with matplotlib, ``templates/charts.js`` in the HTML report.
"""
