"""The lenses on live models."""
