"""Where bytes lie: files, ranges, archives, pickles, HDF5."""
