"""Configuration of the documentation's build (`make docs`)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(REPOSITORY), str(HERE / "_ext")]

_project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

project = "Cohort"
author = copyright = "the Cohort developers"
release = version = _project["version"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "numpydoc",
    "myst_nb",
    "from_code",  # in _ext: pages that are generated from the code
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "generated/*.md", "**.ipynb_checkpoints"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
smartquotes_action = "q"  # quotes only: two hyphens begin an option

# Notebooks are executed by tests/notebooks and shown with their stored output.
nb_execution_mode = "off"
nb_merge_streams = True
# Outputs of notebooks and of `cohort` are no Python.
highlight_language = "none"

# Python reference
autosummary_generate = True
autodoc_typehints = "none"  # signatures have them; numpydoc lists the parameters
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
python_display_short_literal_types = True
default_role = "code"

# Pages
html_theme = "pydata_sphinx_theme"
html_title = "Cohort"
html_static_path = ["_static"]
html_css_files = ["cohort.css"]
html_show_sourcelink = False
html_copy_source = False
html_use_index = False  # the search finds names, and the pages of classes list their members
html_theme_options = {
    "logo": {"text": "Cohort"},
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    # Nothing is loaded from elsewhere, so the site opens from disk without a network.
    "search_as_you_type": False,
}
html_sidebars = {"index": [], "glossary": []}
