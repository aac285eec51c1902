"""Reports, histories and results on disk: files that appear whole, and are checked when they are read."""
