"""What is done to the pages that asv published: scripts from this machine, and nothing that wasn't run.

asv loads jQuery, Flot, Bootstrap and others from other people's servers. Debian has them in the packages
libjs-jquery, libjs-jquery-flot, libjs-bootstrap, libjs-jquery-stupidtable and node-blueimp-md5.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

SYSTEM = Path("/usr/share/javascript")
LOCAL = {  # the end of a script's address in asv's page: where Debian has it; None for what isn't needed
    "jquery-3.3.1.min.js": "jquery/jquery.min.js",
    "jquery.flot.min.js": "jquery-flot/jquery.flot.min.js",
    "jquery.flot.time.min.js": "jquery-flot/jquery.flot.time.min.js",
    "jquery.flot.selection.min.js": "jquery-flot/jquery.flot.selection.min.js",
    "jquery.flot.categories.min.js": "jquery-flot/jquery.flot.categories.min.js",
    "jquery.flot.orderBars.js": None,  # which moves bars apart in plots that no benchmark here has
    "jquery.flot.axislabels.js": None,  # which Debian's Flot does by itself
    "stupidtable.min.js": "jquery-stupidtable/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/md5.min.js",
    "bootstrap.min.js": "bootstrap/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/css/bootstrap.min.css",
}
TAG = re.compile(
    r'<(script|link)\b[^>]*?(?:src|href)="(?:https://[^"]+/)?([^"/]+\.(?:js|css))"[^>]*>(</script>)?'
)

LEGEND = "<style>.legendLayer .background { fill: white; }</style>"  # black in Debian's Flot, which is newer


def finish(folder: Path) -> None:
    """Do it to the site in a folder, if there is one."""
    if (folder / "index.html").exists():
        forget_unmeasured(folder)
        bring_scripts(folder)


def forget_unmeasured(folder: Path) -> None:
    """Leave out benchmarks that weren't run: asv's grid asks for their graphs, which aren't there."""
    index = folder / "index.json"
    site = json.loads(index.read_text())
    ran = {file.stem for file in (folder / "graphs" / "summary").iterdir()}
    site["benchmarks"] = {name: about for name, about in site["benchmarks"].items() if name in ran}
    index.write_text(json.dumps(site))


def available() -> bool:
    """Whether this machine has all of them."""
    return all((SYSTEM / path).exists() for path in LOCAL.values() if path)


def bring_scripts(folder: Path) -> None:
    """Copy the scripts beside the site's page and let it load them there, where this machine has them."""
    if not available():
        return
    for path in filter(None, LOCAL.values()):
        shutil.copy(SYSTEM / path, folder)
    page = folder / "index.html"
    page.write_text(TAG.sub(_tag, page.read_text()).replace("</head>", f"{LEGEND}</head>"))


def _tag(found: re.Match[str]) -> str:
    kind, name = found[1], found[2]
    if name not in LOCAL:  # asv's own
        return found[0]
    if LOCAL[name] is None:
        return ""
    local = Path(LOCAL[name]).name
    return (
        f'<script src="{local}"></script>' if kind == "script" else f'<link rel="stylesheet" href="{local}">'
    )
