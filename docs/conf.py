"""Sphinx configuration. Every build first writes the reference pages from the plugin registries."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from generate import write_reference

write_reference(Path(__file__).parent / "reference")

project = "layerscope"
author = "The layerscope developers"
copyright = "The layerscope developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "layerscope"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch"]  # so that the documentation builds without a framework
suppress_warnings = ["myst.xref_missing"]
highlight_language = "text"
