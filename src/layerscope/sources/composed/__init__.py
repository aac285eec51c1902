"""Targets made of other targets: the weight update ΔW = W − W₀, products of consecutive layers, stacked layers."""
