"""Sphinx's configuration: `make docs` builds this folder, and every warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

import runback  # noqa: E402

project = "runback"
author = "the authors of runback"
copyright = "the authors of runback; Apache-2.0"
release = version = runback.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "reference",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
smartquotes = False  # quotes are those of JSON and of the shell

default_role = "code"  # docstrings write `code` as Markdown does
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Types of other libraries, whose documentation is not part of ours.
nitpick_ignore_regex = [("py:.*", r"(?!runback).*"), ("py:.*", r"runback\.\w+\..*")]

html_theme = "furo"
html_title = "runback"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
