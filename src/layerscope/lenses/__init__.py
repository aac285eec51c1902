"""The two lenses that run a live model: how its layers learn, and its loss landscape.

The first lens, the spectra of the weights, does not run a model: it is ``sources`` → ``pipeline`` → ``rules``.
"""
