"""The manual: that it builds, that links lead somewhere, what pages have, and how a browser shows them."""

import ast
import doctest
import importlib
import inspect
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fastdrop as fd

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = (DOCS / "gallery" / "pages", DOCS / "reference" / "api")
PAGES = [ROOT / "README.md", *(p for p in sorted(DOCS.rglob("*.md")) if p.parent not in GENERATED)]
MODULES = ("fastdrop", *(f"fastdrop.{n}" for n in ("moments", "schedules", "torch", "autograd", "dask")))
MEGABYTES = 30
CODE_WIDTH = 86  # characters of a line that a page shows in a wide window, without scrolling
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Installed where the manual's own tests run, but not wherever fastdrop is tested.
sphinx_is_there = importlib.util.find_spec("pydata_sphinx_theme") is not None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the manual, built by the command of `make docs`: here, or before and named to us."""
    if "FASTDROP_MANUAL" in os.environ:
        return Path(os.environ["FASTDROP_MANUAL"]).resolve()
    if not sphinx_is_there:
        pytest.skip("the manual needs the extra docs: pip install '.[docs]'")
    recipe = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    command = recipe.rstrip().splitlines()[-1].split()
    assert command[1:4] == ["-m", "sphinx", "--fail-on-warning"]
    folder = tmp_path_factory.mktemp("manual")
    replaced = {"out/doctrees": str(folder / "doctrees"), "out/docs": str(folder / "site")}
    arguments = [replaced.get(word, word) for word in command[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a page leads to, what it loads, and the places in it that a link can lead to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.words = [], [], {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(given["href"])
        self.loads += [given["src"]] if given.get("src") else []

    def handle_data(self, data):
        self.words.append(data)


def slug(heading):
    """The anchor that a heading has in a page."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def written_links(page):
    """What a page of Markdown leads to within the manual, by links, cards and the contents."""
    text = re.sub(r"^```(?!\{).*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        yield urlsplit(link)
    names = re.findall(r"^:link: (\S+)$", text, re.MULTILINE)
    for contents in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        names += [line.split("<")[-1].strip(">") for line in contents.splitlines() if line and line[0] != ":"]
    for name in names:
        yield urlsplit(name)


def is_there(page, link):
    """Whether a link that is written leads to a file, to one that the build makes, or to a heading."""
    if link.scheme:
        return True
    target = (page.parent / link.path).resolve() if link.path else page
    made = {DOCS / "reference" / f"{name}.rst" for name in MADE}
    made |= {DOCS / "gallery" / "pages" / f"{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    made.add(DOCS / "gallery" / "pages" / "photograph.rst")
    names = target, *map(target.with_suffix, (".md", ".rst"))
    found = next((name for name in names if name in made or name.is_file()), None)
    if found is None or not link.fragment:
        return found is not None
    headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
    return link.fragment in {slug(heading) for heading in headings}


MADE = ("autograd", "bernoulli", "dask", "density", "moments", "others", "schedules", "torch")


def test_every_link_of_a_page_leads_somewhere():
    """As it is written: `test_every_link_and_anchor_leads_somewhere` looks at what is built."""
    found = [(page, link) for page in PAGES[1:] for link in written_links(page)]
    assert len(found) > 120
    assert [(page.name, link.geturl()) for page, link in found if not is_there(page, link)] == []
    page = DOCS / "guide" / "index.md"
    for wrong in ("nowhere.md", "keys.md#nowhere", "../reference/nowhere.rst"):
        assert not is_there(page, urlsplit(wrong)), wrong


def test_every_page_is_in_the_contents():
    led_to = {
        (page.parent / link.path).resolve().with_suffix("")
        for page in PAGES[1:]
        for link in written_links(page)
    }
    assert [page.name for page in PAGES[1:] if page.with_suffix("") not in led_to] == ["index.md"]


def layers():
    """NumPy's layers by name."""
    return {name: value for name, value in vars(fd).items() if hasattr(value, "load_state_dict")}


PLACES = {"window", "rows", "indices", "offsets"}  # what says where an array lies in a bigger one


@pytest.mark.parametrize(
    ("page", "heading", "differs"),
    [
        ("layers.md", "Other numbers than p", lambda layer: getattr(layer, "_parameter", "p") != "p"),
        ("rates.md", "A rate that changes in training", lambda layer: not layer._takes_schedules),
        (
            "pipelines.md",
            "Which functions and layers know their place",
            lambda layer: not set(inspect.signature(layer.forward).parameters) >= PLACES,
        ),
    ],
)
def test_the_guide_names_the_layers_that_differ(page, heading, differs):
    text = (DOCS / "guide" / page).read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    names = [name for name, layer in layers().items() if differs(layer)]
    assert len(names) >= 4
    assert [name for name in names if f"`fd.{name}`" not in section] == []


def test_the_page_on_pytorch_names_the_modules_that_torch_has_not():
    nn = pytest.importorskip("torch").nn
    text = (DOCS / "guide" / "pytorch.md").read_text(encoding="utf-8")
    listed = text.partition("\nBesides those of torch.nn there are ")[2].partition("\n\n")[0]
    modules = {name for name, value in vars(fd.torch).items() if inspect.isclass(value)}
    modules = {name for name in modules if issubclass(getattr(fd.torch, name), nn.Module)}
    assert set(re.findall(r"`fdt\.(\w+)`", listed)) == {name for name in modules if not hasattr(nn, name)}


@pytest.fixture(scope="module")
def pages(built):
    paths = [path for path in built.rglob("*.html") if "_static" not in path.parts]
    return {path: Page(path) for path in paths}


def leads_nowhere(path, link, pages):
    """Whether a link within the manual leads to no file, or to no place in a page."""
    to = urlsplit(link)
    if to.scheme or to.netloc:
        return False
    target = (path.parent / unquote(to.path)).resolve() if to.path else path
    if target in pages:
        return bool(to.fragment) and unquote(to.fragment) not in pages[target].ids
    return not target.is_file()


def test_every_link_and_anchor_leads_somewhere(pages):
    broken = [
        (path.name, link)
        for path, page in pages.items()
        for link in page.links + page.loads
        if leads_nowhere(path, link, pages)
    ]
    assert broken == []
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_a_broken_link_is_seen(built, pages):
    path = built / "index.html"
    assert leads_nowhere(path, "guide/nowhere.html", pages)
    assert leads_nowhere(path, "guide/keys.html#nowhere", pages)
    assert not leads_nowhere(path, "guide/keys.html#more-keys", pages)


def test_nothing_is_loaded_from_elsewhere(built, pages):
    """No script, style, picture or font of another server, in pages and in styles."""
    for path, page in pages.items():
        assert not [src for src in page.loads if urlsplit(src).netloc], path
    for style in built.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))


def test_the_manual_is_small(built):
    size = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    assert size < MEGABYTES << 20


def public_names():
    """Every public function, class and number by its full name, found otherwise than the manual does."""
    for name in MODULES:
        module = pytest.importorskip(name)
        for word, value in sorted(vars(module).items()):
            listed = word in module.__all__ if hasattr(module, "__all__") else word[0] != "_"
            if listed and not inspect.ismodule(value):
                at_home = getattr(value, "__module__", name) == name
                if at_home and (callable(value) or word in fd.__all__):
                    yield f"{name}.{word}", value


def test_every_public_name_has_a_page_with_an_example(built, pages):
    by_title = {path.stem.removesuffix("-class"): page for path, page in pages.items()}
    found = dict(public_names())
    assert len(found) > 150
    for name, value in found.items():
        assert name in by_title, name
        assert ">>> " in "".join(by_title[name].words), name
        kind = f"{name}-class.html" if inspect.isclass(value) else f"{name}.html"
        assert (built / "reference" / "api" / kind).exists()


@pytest.fixture
def markup(monkeypatch):
    """A function that returns what is wrong in a docstring's reStructuredText."""
    docscrape = pytest.importorskip("numpydoc.docscrape_sphinx")
    from docutils import nodes
    from docutils.core import publish_doctree
    from docutils.parsers.rst import Directive, directives, roles

    class Block(Directive):
        has_content, optional_arguments, final_argument_whitespace = True, 9, True

        def run(self):
            found = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, found)
            return [found]

    for name in ("seealso", "only"):  # Sphinx's own
        monkeypatch.setitem(directives._directives, name, Block)
    for name in ("obj", "py:obj"):
        monkeypatch.setitem(roles._roles, name, roles.GenericRole(name, nodes.literal))

    def wrong(value):
        written = str(docscrape.get_doc_object(value, config={"show_class_members": False}))
        said = io.StringIO()
        settings = {"report_level": 2, "warning_stream": said, "halt_level": 5}
        publish_doctree(written, settings_overrides=settings)
        return said.getvalue()

    return wrong


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::PendingDeprecationWarning")
def test_every_public_docstring_is_well_formed_and_has_an_example(markup):
    """As it is written: the build of the manual ends with an error where one isn't."""
    count = 0
    for full, value in public_names():
        if not callable(value):
            continue
        assert ">>> " in (value.__doc__ or ""), full
        inner = vars(value).values() if inspect.isclass(value) else ()
        for each in (value, *(v for v in inner if inspect.isfunction(v) and v.__doc__)):
            assert markup(each) == "", f"{full}: {each}"
            count += 1
    assert count > 200


def test_a_fault_of_a_docstring_is_seen(markup):
    def function():
        """Return ``nothing.

        Notes
        -----
        - a list
        that ends without an empty line
        """

    assert "Inline literal start-string without end-string" in markup(function)
    assert "Bullet list ends without a blank line" in markup(function)


def test_the_reference_has_a_page_for_every_public_name(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    public = importlib.import_module("public_names")
    stems = {path.stem.removesuffix("-class") for path in public.pages()}
    assert {name for name, _ in public_names()} | set(MADE) <= stems


def run_in(module):
    """The names in a module whose examples are run as its doctests."""
    return {test.name for test in doctest.DocTestFinder().find(module) if test.examples}


def test_the_example_of_every_public_name_is_run():
    """Doctests are found where a name says that it is at home: one with another home is never run."""
    run = set().union(*(run_in(pytest.importorskip(name)) for name in MODULES))
    assert {name for name, value in public_names() if callable(value)} - run == set()
    assert run_in(importlib.import_module("fastdrop._noises.zoneout")) == set()


def test_the_example_of_the_streams_version_is_right(monkeypatch):
    """A number has no docstring, so that its page has an example of its own."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    page = importlib.import_module("public_names").page("fastdrop.STREAM_VERSION")
    example = doctest.DocTestParser().get_doctest(page, {}, "STREAM_VERSION", None, 0)
    assert doctest.DocTestRunner().run(example) == (0, 2)


def test_every_example_has_a_page(built):
    programs = {path.stem for path in (ROOT / "examples").glob("*.py") if "__main__" in path.read_text()}
    pages = {path.stem for path in (built / "gallery" / "pages").glob("*.html")}
    assert pages == programs - {"results"} | {"photograph"}


def test_file_names_differ_also_where_case_does_not_count(pages):
    names = [str(path).lower() for path in pages]
    assert len(names) == len(set(names))


# --- pages as they are written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_code_is_run_or_is_a_command_that_exists(page):
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    for language, code in blocks:
        if language == "python":
            assert code.startswith(">>> "), code
            assert code.endswith("\n\n"), f"doctest needs an empty line at the end of {code}"
        elif language:
            assert language == "sh", f"{language}: only python and sh can be tested"
            for line in code.splitlines():
                assert_command_exists(line.partition(" #")[0].strip())


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_pages_fits_a_wide_window(page):
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    commands = [line for _, code in blocks for line in code.splitlines() if line[:4] in (">>> ", "... ")]
    assert [line for line in commands if len(line) > CODE_WIDTH] == []


def assert_command_exists(line):
    """A line of a shell is one of make, of git, or of Python with what this repository has."""
    if line.startswith("make "):
        target = line.split()[1]
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif found := re.search(r"-m fastdrop (\w+)", line):
        assert f'add_parser("{found[1]}"' in (ROOT / "fastdrop" / "_tools" / "cli.py").read_text(), line
    elif "pip install" in line:
        extras = re.findall(r"\[([\w,]+)\]", line)
        known = (ROOT / "pyproject.toml").read_text()
        assert all(
            re.search(rf"^{e} = \[", known, re.MULTILINE) for given in extras for e in given.split(",")
        )
    elif found := re.search(r"python\S* (?:-m pytest )?(\S+)", line):
        assert (ROOT / found[1]).exists(), line
    else:
        assert line == "" or line.startswith(("git clone ", "cd ")), line


def messages():
    """What the package says in errors and warnings: the fixed parts of its texts, longest first."""
    found = []
    for path in (ROOT / "fastdrop").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return found


OF_PYTHON = "missing 1 required positional argument", "unexpected keyword argument", "got multiple values for"
OF_PYTORCH = ("Unexpected key(s) in state_dict",)


def test_troubleshooting_goes_by_messages_that_there_are():
    """Each heading but the last ones, which are no messages, holds a part of a text of the package.

    Some errors are Python's own, or PyTorch's: a heading may hold a part of these.
    """
    text = (DOCS / "guide" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    symptoms = headings.index("It takes seconds, the first time")
    assert symptoms > 15
    parts = [part.strip(" ,;") for text in messages() for part in text.split("...") if len(part.strip()) > 12]
    ours = [each for each in headings[:symptoms] if not any(part in each for part in OF_PYTHON + OF_PYTORCH)]
    assert len(ours) == symptoms - 4
    for heading in ours:
        assert any(part in heading or piece in part for part in parts for piece in pieces(heading)), heading


def pieces(heading):
    """The parts of a heading that are whole, of more than two words."""
    return [p.strip(" ,;") for p in re.split(r"\.\.\.|\(a warning\)|:", heading) if len(p.split()) > 2]


def named_in_vain(texts):
    """The pages and the public names that texts name and that there aren't."""
    pages = {name for text in texts for name in re.findall(r"[\w/]+\.(?:md|html)\b", text)}
    names = {name for text in texts for name in re.findall(r"\bfastdrop(?:\.[A-Za-z]\w*)+", text)}
    assert len(names) > 30  # so they are found at all
    return sorted(page for page in pages if not (ROOT / page).exists()) + sorted(
        name for name in names - pages if not leads_to_something(name)
    )


def leads_to_something(name):
    try:
        return pkgutil.resolve_name(name) is not None
    except (AttributeError, ModuleNotFoundError):
        return False


def test_messages_name_pages_and_names_that_exist():
    pytest.importorskip("torch")
    assert named_in_vain(messages()) == []
    wrong = ["see docs/guide/nowhere.md", "use fastdrop.torch.dropuot(x)", "use fastdrop.Key.spilt"]
    assert named_in_vain([*messages(), *wrong]) == [
        "docs/guide/nowhere.md",
        "fastdrop.Key.spilt",
        "fastdrop.torch.dropuot",
    ]


def test_readme_is_short_and_begins_with_a_result():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    assert any(line.startswith("array(") for line in lines[:30])


def test_links_of_pages_outside_the_manual_lead_to_files():
    pages = [*ROOT.glob("*.md"), *(ROOT / name / "README.md" for name in ("benchmarks", "examples", "tests"))]
    found = [(page, link) for page in pages for link in written_links(page)]
    assert len(found) > 12
    wrong = [(page.name, link.geturl()) for page, link in found if not is_there(page, link)]
    assert wrong == []


# --- in a browser


@pytest.fixture(scope="module")
def browser(built):
    """Headless Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module", params=["folder", "server"])
def address(request, built):
    """Where the manual is: in a folder, and on a server."""
    if request.param == "folder":
        yield built.as_uri()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def show(browser, page, width=1280, scheme="light"):
    """Open a page in a window of a width, of a person who wants light or dark pages."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    browser.get(page)


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def wait_for(browser, script):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 30).until(lambda b: b.execute_script(script))


def test_browser_shows_the_first_page(browser, address):
    show(browser, f"{address}/index.html")
    assert browser.find_element("css selector", "h1").text.startswith("fastdrop")
    assert len(browser.find_elements("css selector", ".sd-card")) == 6
    assert browser.execute_script("return document.querySelector('article img').naturalWidth") > 300
    browser.find_element("css selector", ".sd-card").click()
    assert wait_for(browser, "return document.title.startsWith('Start')")
    assert errors(browser) == []


def test_browser_shows_a_page_of_the_reference(browser, address):
    show(browser, f"{address}/reference/api/fastdrop.dropout.html")
    text = browser.find_element("css selector", "article").text
    for said in ("shared_axes", "Probability to drop", ">>> fd.dropout(np.ones(8, np.float32)", "JMLR 15"):
        assert said in text
    assert errors(browser) == []


def test_browser_draws_formulas(browser, address):
    show(browser, f"{address}/reference/mathematics.html")
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.formula math')].map(m => m.getBoundingClientRect().height)"
    )
    source = (DOCS / "reference" / "mathematics.md").read_text(encoding="utf-8")
    assert len(sizes) == len(re.findall(r"^\$\$", source, re.MULTILINE))
    assert min(sizes) > 10
    assert not re.search(r"\\[a-z]|\$", browser.find_element("css selector", "article").text)
    assert errors(browser) == []


def test_browser_finds_gaussian(browser, address):
    show(browser, f"{address}/index.html")
    browser.find_element("css selector", "button.search-button__button").click()
    field = wait_for(browser, "return document.querySelector('dialog[open] input[type=search]')")
    field.send_keys("Gaussian\n")
    found = wait_for(
        browser, "return [...document.querySelectorAll('#search-results li')].map(e => e.innerText)"
    )
    wait_for(browser, "return document.querySelectorAll('#search-results li').length > 20")
    found = browser.execute_script(
        "return [...document.querySelectorAll('#search-results li')].map(e => e.innerText)"
    )
    assert any("fastdrop.gaussian_dropout" in line for line in found)
    assert any("The mathematics of each noise" in line for line in found)
    assert errors(browser) == []


def test_browser_shows_the_pictures_of_the_gallery(browser, address):
    show(browser, f"{address}/gallery/pages/photograph.html")
    widths = "return [...document.querySelectorAll('article img')].map(i => i.naturalWidth)"
    assert len(browser.execute_script(widths)) == 15
    assert set(browser.execute_script(widths)) == {320}
    show(browser, f"{address}/gallery/pages/compare_dropouts.html")
    visible = """return [...document.querySelectorAll('article img')].filter(
      i => i.naturalWidth > 300 && i.getBoundingClientRect().width > 200).length"""
    assert browser.execute_script(visible) == 1  # the one for light pages
    assert errors(browser) == []


PHONE = [
    "index.html",
    "start/first.html",
    "guide/troubleshooting.html",
    "coming-from.html",
    "noises.html",
    "reference/bernoulli.html",
    "reference/mathematics.html",
    "reference/stream.html",
    "reference/api/fastdrop.Dropout-class.html",
    "reference/api/fastdrop.torch.scaled_dot_product_attention.html",
    "gallery/index.html",
    "gallery/pages/compare_dropouts.html",
    "benchmarks.html",
]


# What is wider than the page, but for code, tables and formulas, which scroll in frames of their own. The
# theme lets the whole article scroll sideways, which is what nobody wants.
WIDE = """
  const frame = document.documentElement.clientWidth;
  const scrolls = e => e.closest('pre, .pst-scrollable-table-container, .formula');
  const hidden = e => getComputedStyle(e).visibility === 'hidden' ||
    e.closest('dialog, .visually-hidden');
  return [...document.querySelectorAll('main *, header *')].filter(e => {
    const at = e.getBoundingClientRect();
    return at.width > 0 && at.right > frame + 1 && !scrolls(e) && !hidden(e);
  }).map(e => e.outerHTML.slice(0, 100)).slice(0, 5)"""


@pytest.mark.parametrize("page", PHONE)
def test_a_phone_needs_no_sideways_scrolling(browser, built, page):
    """Nothing is wider than the page but what scrolls in a frame of its own, such as a wide table."""
    show(browser, f"{built.as_uri()}/{page}", width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script(WIDE) == []


@pytest.mark.parametrize("width", [1280, 1600])
def test_lines_of_code_are_whole_in_a_wide_window(browser, built, width):
    show(browser, f"{built.as_uri()}/guide/pytorch.html", width=width)
    scrolls = """
      const [block, line] = [document.querySelector('article pre'), document.createElement('span')];
      line.textContent = 'x'.repeat(arguments[0]);
      block.replaceChildren(line);
      return block.scrollWidth > block.clientWidth"""
    assert browser.execute_script(scrolls, CODE_WIDTH) is False
    assert browser.execute_script(scrolls, 2 * CODE_WIDTH) is True


def test_names_of_arguments_do_not_break(browser, built):
    show(browser, f"{built.as_uri()}/reference/api/fastdrop.dropout.html")
    lines = """
      return [...document.querySelectorAll('dl.field-list dt > strong')].map(name => {
        const text = document.createRange();
        text.selectNodeContents(name);
        return text.getClientRects().length;
      })"""
    found = browser.execute_script(lines)
    assert len(found) > 8
    assert set(found) == {1}
    browser.execute_script(
        "document.querySelector('dl.field-list dt > strong').innerText = 'a name of words'"
    )
    browser.execute_script("document.querySelector('dl.field-list dt > strong').style.width = '3rem'")
    assert browser.execute_script(lines)[0] > 1


CONTRAST = """
  const shine = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/rgba\\(.*, 0\\)/.test(c)) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = 'p, h1, code, pre span, td, figcaption, math'.split(', ').map(tag => `article ${tag}`);
  const found = [...document.querySelectorAll([...texts, 'nav a'].join(', '))]
    .filter(e => e.innerText !== '' && e.getBoundingClientRect().width > 0)
    .map(e => {
      const [a, b] = [shine(getComputedStyle(e).color), shine(ground(e))].sort((a, b) => b - a);
      return [(a + .05) / (b + .05), e.outerHTML.slice(0, 100)];
    });
  return found.sort((a, b) => a[0] - b[0]).slice(0, 3).concat([[found.length, 'all']])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "page",
    ["index.html", "guide/keys.html", "reference/mathematics.html", "gallery/pages/concrete_rate.html"],
)
def test_text_can_be_read_in_light_and_dark(browser, built, page, scheme):
    """Its contrast is at least 4.5, as the guidelines for accessible pages ask (WCAG 2, level AA)."""
    show(browser, f"{built.as_uri()}/{page}", scheme=scheme)
    assert wait_for(browser, f"return document.documentElement.dataset.theme === '{scheme}'")
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", dark)[:3])) < 60) == (scheme == "dark")
    *worst, (count, _) = browser.execute_script(CONTRAST)
    assert count > 20
    assert worst[0][0] >= 4.5, worst


def test_what_is_too_wide_or_too_pale_is_seen(browser, built):
    show(browser, f"{built.as_uri()}/guide/keys.html", width=390)
    browser.execute_script("""
      const first = document.querySelector('article p');
      first.style.width = '500px';
      first.style.color = getComputedStyle(document.body).backgroundColor;""")
    assert browser.execute_script(WIDE) != []
    assert browser.execute_script(CONTRAST)[0][0] < 1.5
