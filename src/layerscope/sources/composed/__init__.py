"""Targets made of other targets: the update W − W₀, products of consecutive layers, all layers stacked."""
