"""A report, or a comparison, as one HTML page that needs nothing else: no network, no server, no other file.

Everything from a model is a stranger's: it reaches the page through the template's escaping or as JSON that a script
turns into text nodes. The page's policy lets only its own script and style run.
"""
