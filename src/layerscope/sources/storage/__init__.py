"""Read bytes from files, stores, zip archives, pickles and HDF5; every size stated in a file is checked first."""
