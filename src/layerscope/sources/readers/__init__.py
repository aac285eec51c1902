"""Readers, one module per file format or kind of live object, named with the family first (``torch_file``).

A reader defines ``accepts(target)``, ``open(target)`` and ``PORTABLE``, whether another process can open the target.
Modules without ``PORTABLE`` hold parts of a format (headers, graphs) for its reader.
"""
