"""What travels between the packages: frozen records with the shape and unit of each field.

How records are shown and saved is in ``views`` and ``persistence``; ``viewable`` alone reaches there.
"""
