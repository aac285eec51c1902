"""Pure functions on arrays, without files, logging or global state."""
