"""What is done to the pages that asv published: scripts from this machine, and nothing that wasn't run.

asv loads jQuery, Flot, Bootstrap and others from other people's servers. `make dashboard` takes them from
npm, by web/package.json.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "out" / "asv" / "web" / "node_modules"
LOCAL = {  # the end of a script's address in asv's page: where npm puts it; None for what isn't needed
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "jquery-flot/jquery.flot.js",
    "jquery.flot.time.min.js": "jquery-flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "jquery-flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "jquery-flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": None,  # which moves bars apart in plots that no benchmark here has
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
TAG = re.compile(
    r'<(script|link)\b[^>]*?(?:src|href)="(?:https://[^"]+/)?([^"/]+\.(?:js|css))"[^>]*>(</script>)?'
)


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
    """Whether npm has brought all of them."""
    return all((SCRIPTS / path).exists() for path in LOCAL.values() if path)


def bring_scripts(folder: Path) -> None:
    """Copy the scripts beside the site's page and let it load them there, or say what is missing."""
    if not available():
        print(f"asv's pages will need the internet: their scripts are not in {SCRIPTS}, where npm puts them")
        return
    for path in filter(None, LOCAL.values()):
        shutil.copy(SCRIPTS / path, folder)
    page = folder / "index.html"
    page.write_text(TAG.sub(_tag, page.read_text()))


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
