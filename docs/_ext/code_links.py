"""Makes a link of each public name that a page has in backticks, and a warning of each that doesn't exist.

It also takes the empty line off the ends of blocks of code, which is there for doctest.

`fd.dropout`, `fastdrop.moments.dropout`, `fdt.install()` and `layer.step()` are how pages write them; `fd` is
fastdrop, `fdt` is fastdrop.torch.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from public_names import exists, page_of
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"(fd|fdt|fastdrop)\.([A-Za-z_][\w.]*)(\(.*\))?")
SHORT = {"fd": "fastdrop", "fdt": "fastdrop.torch", "fastdrop": "fastdrop"}
BARE = {"noises"}  # pages whose names in backticks are those of fastdrop itself
PLACEHOLDERS = {"fastdrop.X", "fastdrop.name"}  # which stand for any name
logger = logging.getLogger(__name__)


class CodeLinks(SphinxPostTransform):
    """Links from names in code to their pages."""

    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        """Go through the page's code."""
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            if self.env.docname in BARE and exists(f"fastdrop.{text}"):
                text = f"fastdrop.{text}"
            found = NAME.fullmatch(text)
            if not found or isinstance(literal.parent, nodes.reference):
                continue
            name = f"{SHORT[found[1]]}.{found[2]}".rstrip(".")
            if name in PLACEHOLDERS:
                continue
            if not exists(name):
                logger.warning("there is no %s", name, location=literal)
            elif page := page_of(name):
                inner = literal.deepcopy()
                builder = self.app.builder
                link = make_refnode(builder, self.env.docname, page, None, inner, name)
                literal.replace_self(link)


class CodeEnds(SphinxTransform):
    """Blocks of code without an empty line at their ends."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Go through the page's blocks of code."""
        for block in self.document.findall(nodes.literal_block):
            if block.astext().endswith("\n"):
                text = block.astext().rstrip("\n")
                block.rawsource = text
                block[:] = [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transforms."""
    app.add_transform(CodeEnds)
    app.add_post_transform(CodeLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
