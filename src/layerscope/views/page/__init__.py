"""Self-contained HTML pages for reports, comparisons, runs, experiments and loss landscapes.

A page needs no network, no server and no other file. Everything that comes from a model is untrusted: it reaches the
page through the template's escaping, or as JSON that a script turns into text nodes. The content security policy of
the page allows only its own script and style.
"""
