"""One reader per file format, the family first in its name."""
