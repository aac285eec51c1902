"""Where bytes lie: ranges of files and stores, zip archives, pickles, HDF5. Every size in a file is checked first."""
