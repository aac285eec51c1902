"""Pure functions on arrays: arrays in, arrays or records out; no files, no logging, no global state."""
