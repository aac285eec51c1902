"""The lenses that run a live model: how its layers learn, and the landscape of its loss.

The first lens, spectra of weights, needs no model: it is ``sources`` → ``pipeline`` → ``rules``.
"""
