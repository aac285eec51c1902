"""Permutations of hidden units that leave a network's function as it is, and the one that fits another model best.

Which units belong together is traced while a copy of the network runs once; nothing is known of architectures.
"""
