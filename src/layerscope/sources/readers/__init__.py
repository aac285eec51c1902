"""One reader per format, the family first in its name: a module with ``accepts``, ``open`` and ``PORTABLE``.

Modules without ``PORTABLE`` are parts of a format (headers, graphs) that its reader uses.
"""
