"""The manual's settings. `make docs` builds it into out/docs, without the internet."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import fastdrop  # noqa: E402

project = "fastdrop"
author = "fastdrop developers"
copyright = "fastdrop developers"
release = version = fastdrop.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    # our own, in docs/_ext
    "public_names",
    "code_links",
    "mathml",
    "gallery",
]
exclude_patterns = ["_ext"]
default_role = "py:obj"
smartquotes = False  # which would make one dash of the two of an option

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say what each argument is
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the pages list them
numpydoc_class_members_toctree = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"fastdrop {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["manual.css"]
html_copy_source = html_show_sourcelink = False
html_use_index = html_domain_indices = False  # the search and the reference find names
html_show_search_summary = False  # it needs a web server, and the pages must work from a folder
html_theme_options = {
    "logo": {"text": "fastdrop"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_nav_level": 1,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_context = {"default_mode": "auto"}
html_sidebars = {"index": [], "coming-from": [], "benchmarks": []}
