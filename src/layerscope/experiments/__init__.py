"""Published experiments, each run again by one function, with what it shows and what reproduced."""
