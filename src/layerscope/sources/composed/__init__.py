"""Targets made of other targets: updates, products, stacks."""
