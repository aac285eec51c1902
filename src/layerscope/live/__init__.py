"""Running what users bring: models, losses and data loaders of other people."""
