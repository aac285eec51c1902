"""Read models: recognize a target, read its headers, then load one tensor at a time.

A reader is a module with ``accepts(target)``, ``open(target)`` and ``PORTABLE`` (whether another process can reopen the
target). ``accepts`` checks content (magic bytes, the type's module name), never imports a framework and never raises.
``open`` reads headers only and raises a TargetError that says what is wrong.
"""
