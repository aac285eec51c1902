"""How the layers of a live PyTorch model learn: input and gradient covariances, Fisher blocks, curvature, neurons.

Hooks (``kfac_hooks``, ``capture``) stand apart from their mathematics (``layer_rows``, ``fisher_blocks``). Numbers of
single layers become columns in ``layerscope.metrics.conditioning``.
"""
