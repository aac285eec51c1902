"""How the layers of a live PyTorch model learn: input and gradient covariances, Fisher blocks, curvature, units.

The hooks (``kfac_hooks``, ``capture``) are separate from the mathematics (``layer_rows``, ``fisher_blocks``).
``layerscope.metrics.conditioning`` turns the numbers of single layers into columns of a table.
"""
