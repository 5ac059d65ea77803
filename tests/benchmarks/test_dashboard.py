"""The dashboard: its plots, its front page and the pages' tables, and all of it in a real browser."""

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from math import log
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def modules():
    """The programs in benchmarks/ that the dashboard is made by."""
    names = ("history", "peers_results", "plots", "readme", "here", "front_page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        found = {name: __import__(name) for name in names}
        yield type("Modules", (), found)
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def results(modules):
    return modules.peers_results.Results.read()


@pytest.fixture(scope="module")
def steps(modules):
    return modules.peers_results.Results.read(modules.peers_results.STEPS)


def test_pages_have_what_the_results_files_give(modules, results, steps):
    readme = modules.readme
    for page, written in (
        (readme.README, readme.short(results, steps)),
        (readme.MANUAL, readme.section(results) + readme.steps(steps)),
        (readme.GPU_PAGE, readme.gpu_section(readme.gpu_results())),
    ):
        text = page.read_text()
        assert text.count(readme.BEGIN) == text.count(readme.END) == 1
        assert text == readme.with_section(text, written)
    assert readme.PLOT.read_text() == readme.plot(results)
    assert readme.THREADS_PLOT.read_text() == readme.threads_plot(results)


def test_pages_of_other_results_are_others(modules, results, steps):
    readme = modules.readme
    text = readme.MANUAL.read_text()
    rows = [row | {"ns_per_element": row["ns_per_element"] * 2} for row in results.rows]
    doubled = results._replace(rows=rows)
    assert readme.with_section(text, readme.section(doubled) + readme.steps(steps)) != text
    front = readme.README.read_text()
    assert readme.with_section(front, readme.short(doubled, steps)) != front
    gpu = readme.GPU_PAGE.read_text()
    found = readme.gpu_results()
    halved = [
        r | {"values": {n: v / 2 for n, v in r["values"].items()}} for r in found["results"] if r["dtype"]
    ]
    assert readme.with_section(gpu, readme.gpu_section(found | {"results": halved})) != gpu
    last = steps.rows[-1]
    slower = {**last, "values": {name: 2 * value for name, value in last["values"].items()}}
    other = readme.steps(steps._replace(rows=[*steps.rows[:-1], slower]))
    assert readme.with_section(text, readme.section(results) + other) != text


def test_table_of_steps_has_the_models_first_and_the_ratios(modules, steps):
    lines = [line for line in modules.readme.steps(steps).splitlines() if line.startswith("|")]
    cases = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    sizes = ("1,024", "65,536", "4,194,304")
    assert cases == [
        "character GPT, a step",
        "MLP, a step",
        "nn.TransformerEncoder, a step",
        "BERT, a step",
        *(f"GPT-2 over {length}, a step" for length in ("512", "1,024")),
        *(
            f"{kind}attention over {n}, forward and backward"
            for n in ("256", "1,024", "2,048")
            for kind in ("", "causal ")
        ),
        *(f"Dropout {what}, {n}" for n in sizes for what in ("forward", "forward and backward")),
        "peak memory, 33,554,432",
    ]
    rows = [
        {
            "part": "gpt",
            "case": "a",
            "unit": "us",
            "values": {"p=0": 7, "fastdrop": 940, "install()": 235, "torch.nn": 2350},
        }
    ]
    written = modules.readme.steps(steps._replace(rows=rows))
    assert "| a | 7 us | 235 us | 940 us | 2.4 ms | 10 |" in written


def test_the_page_says_how_many_turns_the_steps_had(modules, steps):
    """Of 9 rounds each of 8 builds has 2 turns, and attention 3."""
    for rounds, builds, attention in ((31, 4, 8), (9, 2, 3)):
        said = " ".join(modules.readme.steps(steps._replace(rounds=rounds)).split())
        assert f"medians of {rounds} turns, and those of attention of {attention}." in said
        assert f"8 builds of its model, of the medians of {builds} turns each." in said


def test_make_results_has_the_rounds_of_the_stored_results(results, steps):
    recipe = re.search(r"^results:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert list(map(int, re.findall(r"--rounds (\d+)", recipe))) == [results.rounds, steps.rounds]


def test_short_table_has_fastdrop_and_whom_it_names(modules, results, steps):
    readme = modules.readme
    lines = [line for line in readme.short(results, steps).splitlines() if line.startswith("|")]
    names = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    assert names == [readme.SHOWN.get(n, n) for n in results.names() if n in readme.SHORT_NAMES]
    assert len(names) == len(readme.SHORT_NAMES)
    assert {line.count("|") for line in lines} == {2 + len(readme.SHORT_SIZES)}


def test_tables_are_of_every_contender_and_of_every_number_of_threads(modules, results):
    found = [line for line in modules.readme.section(results).splitlines() if line.startswith("|")]
    lines, growth = found[: 2 + len(results.names())], found[2 + len(results.names()) :]
    assert {line.count("|") for line in found} == {lines[0].count("|")}
    firsts = [line.split(" | ")[0].strip("| ") for line in growth[2:]]
    assert firsts == [f"p = {p}, {n} thread{'s' * (n > 1)}" for p in (0.5, 0.1) for n in (1, 2)]
    numbers = re.findall(r"[\d.]+ \([\d.]+\)", "".join(lines))
    assert len(numbers) == len(results.names()) * (lines[0].count("|") - 2)


def test_the_page_of_the_gpu_says_which_parts_failed(modules):
    readme, found = modules.readme, modules.readme.gpu_results()
    passed, failed = (readme.gpu_section(found | {"failures": each}) for each in ([], ["gpt: out of time"]))
    assert "No part of `benchmarks/gpu.py` failed." in passed
    assert "These parts of `benchmarks/gpu.py` failed: `gpt: out of time`." in failed
    assert "No part" not in failed


def test_results_name_machine_versions_and_date(results):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", results.date)
    assert {"processor", "cores", "numpy", "numba", "python"} <= set(results.machine)
    assert results.values("threads") == [1, 2]
    assert set(results.values("p")) == {0.1, 0.5}


@pytest.mark.parametrize(("load", "said"), [(None, False), (0.4, False), (5.5, True)])
def test_figures_of_a_busy_machine_say_so(modules, results, load, said):
    taken = results._replace(load=load, machine=results.machine | {"cores": 2})
    sentence = "busy with other work (load 5.5 on 2 cores)"
    assert (sentence in modules.readme.section(taken)) == said
    assert (sentence in modules.front_page.page(taken, None)) == said


def test_bars_are_as_long_as_their_logarithms(modules, results):
    """The least bar's logarithm over another's is that of the numbers beside them."""
    size = results.values("size")[-1]
    bars = modules.plots.times(results, size, 0.5, 2)
    drawn = ElementTree.fromstring(modules.plots.bars(bars, "title"))
    widths = [float(bar.get("width")) for bar in drawn.iter(f"{SVG}rect") if "bar" in bar.get("class")]
    times = sorted(results.row(name, size, 0.5, 2)["ns_per_element"] for name in results.names())
    assert len(widths) == len(results.names())
    scale = modules.plots.Scale([10, 1000], 0, 100)
    assert [scale(v) for v in (10, 100, 1000)] == [0, 50, 100]
    assert widths == sorted(widths)
    longest = widths[-1] - widths[0]
    for width, ns in zip(widths, times, strict=True):
        expected = longest * log(ns / times[0]) / log(times[-1] / times[0])
        assert abs(width - widths[0] - expected) < 0.3


def test_curves_have_a_point_for_each_size(modules, results):
    lines = modules.plots.peers(results, 0.5, 2)
    drawn = ElementTree.fromstring(modules.plots.curves(lines, "title", {"threads": 1 << 14}))
    curves = [line.get("points").split() for line in drawn.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [len(results.values("size"))] * len(results.names())
    assert "threads" in [text.text for text in drawn.iter(f"{SVG}text")]
    names = [float(text.get("y")) for text in drawn.iter(f"{SVG}text") if "name" in (text.get("class") or "")]
    assert len(names) == len(lines)
    apart = sorted(names)
    assert min(b - a for a, b in pairwise(apart)) >= 12.9
    assert apart[-1] < 330


@pytest.fixture
def here(modules):
    """Figures as asv has them of a machine, in seconds and as ratios."""
    seconds = {(1024, 0.5, 1, "float32"): 2.048e-6, (1 << 18, 0.5, 1, "float32"): 65.536e-6}
    values = {
        "functions.dropout.time_forward": seconds,
        "functions.dropout.time_backward": {(1 << 18, 0.5, 1, "float32"): 131.072e-6},
        "functions.dropout.track_multiplies": {(1 << 18, 0.5, 1, "float32"): 1.6},
        "layers.Dropout.time_forward": seconds,
        "process.Import.timeraw_import": {(): 0.02},
        "peers.Dropout.track_share": {
            ("np.copyto", 1 << 16, 0.5, 2): 1.25,
            ("PyTorch eager", 1 << 16, 0.5, 2): 0.01,
            ("np.copyto", 1 << 22, 0.5, 2): 1.0,
        },
    }
    machine = {"machine": "mine", "cpu": "A <fast> one", "num_cpu": "8", "python": "3.11", "numpy": "2.4.6"}
    taken = {name: ("2026-11-26", "0123456789abcdef", found) for name, found in values.items()}
    taken["peers.Dropout.track_share"] = (
        "2026-11-24",
        "fedcba9876543210",
        values["peers.Dropout.track_share"],
    )
    return modules.here.Here(machine, {name: modules.here.Taken(*one) for name, one in taken.items()})


def test_front_page_leads_with_this_machine(modules, results, here):
    page = modules.front_page.page(results, here)
    assert re.findall("<h2>(.*?)</h2>", page) == ["On this machine", "Stored figures"]
    mine, stored = re.findall('<p class="taken">(.*?)</p>', page)
    assert mine == (
        "mine: A &lt;fast&gt; one, 8 cores. Taken on 24 November 2026 to 26 November 2026, "
        "Python 3.11, numpy 2.4.6."
    )
    assert stored == f"{results.processor()}. Taken on {modules.plots.day(results.date)}."
    assert page.index(mine) < page.index("1.6 times a plain multiplication") < page.index(stored)
    sentence = (
        "Dropout of 262,144 float32 elements takes 0.25 ns an element, 1.6 times a plain multiplication"
    )
    assert sentence in page
    assert "65,536 elements, 2 threads: how many times as long as fastdrop each takes" in page
    assert "on a logarithmic scale (at commit fedcba98, 24 November 2026)." in page
    assert re.findall(r">([\d.]+x)<", page) == ["0.8x", "100x", "1x"]
    rows = re.findall('<tr><td><a href="(.*?)">(.*?)</a></td>(.*?)</tr>', page)
    assert [(link, name, re.findall("<td>(.*?)</td>", cells)) for link, name, cells in rows] == [
        (f"history/index.html#{name}.time_forward", name, cells)
        for name, cells in (
            ("functions.dropout", ["2", "0.25", "0.5", "1.6", "01234567, 2026-11-26"]),
            ("layers.Dropout", ["2", "0.25", "", "", "01234567, 2026-11-26"]),
        )
    ]


def test_front_page_says_where_this_machine_has_no_figures(modules, results):
    page = modules.front_page.page(results, None)
    assert "asv has no figures of this machine" in page
    assert page.index("On this machine") < page.index("no figures") < page.index("Stored figures")


def test_a_page_of_few_benchmarks_shows_those(modules, results, here):
    """ONLY may have chosen any, and a machine may lack any peer."""
    for left in (["layers.Dropout.time_forward"], ["process.Import.timeraw_import"]):
        page = modules.front_page.page(results, here._replace(taken={n: here.taken[n] for n in left}))
        assert ("<details>" in page) == (left == ["layers.Dropout.time_forward"])
        assert "None" not in page


def stored_result(folder, machine, commit, date, results):
    """A file as asv stores it, with results whose grid is one size."""
    columns = ["result", "params", "version", "started_at", "duration"]
    lists = [["1024"], ["0.5"], ["1"], ["'float32'"]]
    params = {"machine": machine, "cpu": "one", "num_cpu": "2", "python": "3.11"}
    about = {"params": params, "requirements": {}, "env_vars": {}, "python": "3.11", "env_name": "env"}
    rows = {name: [value, lists, "1", 1795697601000 + date, 1.0] for name, value in results.items()}
    found = about | {"commit_hash": commit, "date": date, "result_columns": columns, "results": rows}
    (folder / machine).mkdir(parents=True, exist_ok=True)
    (folder / machine / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
    path = folder / machine / f"{commit}-env.json"
    path.write_text(json.dumps(found | {"durations": {}, "version": 2}))


def test_figures_of_this_machine_are_each_of_the_newest_commit_that_has_it(modules, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    read = modules.here.Here.read
    name, forward = platform.node(), "functions.dropout.time_forward"
    results = tmp_path / "results"
    stored_result(results, name, "aaaa", 1, {forward: [1e-6]})
    assert read(results) is None  # asv knows no machine yet
    (tmp_path / ".asv-machine.json").write_text(json.dumps({"version": 1, name: {"machine": name}}))
    assert read(tmp_path / "nowhere") is None
    assert read(results).taken[forward].commit == "aaaa"
    nan = float("nan")
    mixed = {forward: [2e-6], "functions.failed.time_forward": [None], "layers.skipped.time_forward": [nan]}
    stored_result(results, name, "bbbb", 3, mixed)
    stored_result(results, name, "cccc", 4, {forward: None})  # could not be built
    stored_result(results, name, "eeee", 2, {forward: [3e-6], "functions.failed.time_forward": [5e-6]})
    stored_result(results, f"not-{name}", "dddd", 5, {forward: [4e-6]})
    point = (1024, 0.5, 1, "float32")
    assert read(results).taken == {
        forward: ("2026-11-26", "bbbb", {point: 2e-6}),
        "functions.failed.time_forward": ("2026-11-26", "eeee", {point: 5e-6}),
    }
    assert read(results).cases() == ["functions.dropout", "functions.failed"]


def test_front_page_needs_nothing_from_elsewhere(modules, results, here):
    page = modules.front_page.page(results, here)
    assert not re.findall(r'(?:src|href)="(?!history/|data:,)|url\(|@import', page)
    assert page.count("<svg") == 6
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    assert "$" not in page


def test_asv_loads_no_script_that_has_no_local_one(modules):
    """An asv that wants others would otherwise show an empty page."""
    import asv

    page = (Path(asv.__file__).parent / "www" / "index.html").read_text()
    wanted = re.findall(r'(?:src|href)="https://[^"]+/([^"/]+\.(?:js|css))"', page)
    assert wanted
    assert set(wanted) <= set(modules.history.LOCAL)


def test_a_site_is_left_alone_where_scripts_are_missing(modules, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modules.history, "SCRIPTS", tmp_path / "nowhere")
    (tmp_path / "index.html").write_text("as it was")
    modules.history.bring_scripts(tmp_path)
    assert (tmp_path / "index.html").read_text() == "as it was"
    assert "asv's pages will need the internet" in capsys.readouterr().out


def test_benchmarks_that_were_not_run_are_left_out(modules, tmp_path):
    summaries = tmp_path / "graphs" / "summary"
    summaries.mkdir(parents=True)
    (summaries / "functions.ran.time_new.json").write_text("[]")
    known = {"functions.ran.time_new": {"unit": "seconds"}, "functions.never.time_new": {}}
    (tmp_path / "index.json").write_text(json.dumps({"benchmarks": known, "tags": {}}))
    modules.history.forget_unmeasured(tmp_path)
    left = json.loads((tmp_path / "index.json").read_text())
    assert left == {"benchmarks": {"functions.ran.time_new": {"unit": "seconds"}}, "tags": {}}


@pytest.fixture(scope="module")
def browser(modules):
    """Headless Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    if not modules.history.available():
        subprocess.run(["make", "out/asv/web/.done"], cwd=ROOT, check=False, timeout=120)
    if not modules.history.available():
        pytest.skip("needs asv's scripts, which npm brings: make out/asv/web/.done")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def site(modules, browser, tmp_path_factory):
    """The address of a site published from three commits of a repository made here."""
    folder = tmp_path_factory.mktemp("published")
    publish(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where asv said what this machine is
        modules.front_page.main([str(folder / "site"), "--results", str(folder / "results")])
    handler = partial(Quiet, directory=folder / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def publish(folder):
    """Run three benchmarks of the suite as if of three commits, and publish what they gave."""
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    run([*git, "init", "--quiet", "--initial-branch=main"])
    for n in range(3):
        run([*git, "commit", "--quiet", "--allow-empty", f"--message=commit {n}"])
    config = json.loads(re.sub(r"^\s*//.*$", "", (FOLDER / "asv.conf.json").read_text(), flags=re.MULTILINE))
    del config["matrix"]
    config |= {"repo": str(folder), "branches": ["main"], "benchmark_dir": str(FOLDER / "suite")}
    config |= {"results_dir": "results", "html_dir": "site/history", "env_dir": "env"}
    (folder / "asv.conf.json").write_text(json.dumps(config))
    asv = [sys.executable, "-m", "asv", "--config", str(folder / "asv.conf.json")]
    run([*asv, "machine", "--yes"], folder)
    once = ["--attribute=rounds=1", "--attribute=repeat=2", "--attribute=warmup_time=0"]
    only = ["--bench", r"^functions\.dropout\.(time_forward|track)|^layers\.Dropout\.time_forward"]
    for commit in run([*git, "rev-list", "main"]).split():
        run([*asv, "run", "--python=same", "--set-commit-hash", commit, *once, *only], folder)
    run([*asv, "publish"], folder)


def run(command, home=None):
    """What a command prints, with settings of its own in a home of its own."""
    settings = {"HOME": str(home), "FASTDROP_GRID": "smallest"} if home else {}
    # asv takes what is in PYTHONPATH off the path, and puts what is in this there
    environment = os.environ | {"ASV_PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": os.devnull} | settings
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(browser, script):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 30).until(lambda b: b.execute_script(script))


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_browser_shows_the_front_page(browser, site, results):
    browser.set_window_size(390, 844)
    browser.get(f"{site}/index.html")
    assert browser.execute_script("return document.querySelectorAll('figure svg').length") == 4
    sizes = "return [...document.querySelectorAll('rect.bar')].map(bar => bar.getBoundingClientRect().width)"
    bars = browser.execute_script(sizes)
    assert len(bars) == 2 * len(results.names())
    assert min(bars) > 1
    texts = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].map(t => t.textContent)"
    )
    assert "fastdrop" in texts
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) <= 0  # nothing to scroll sideways on a phone
    outside = """return [...document.querySelectorAll('svg')].flatMap(svg => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text')].filter(text => {
        const at = text.getBoundingClientRect();
        return at.left < frame.left - 1 || at.right > frame.right + 1; }).map(text => text.textContent); })"""
    assert browser.execute_script(outside) == []
    assert errors(browser) == []


def test_browser_shows_this_machine_first(browser, site):
    """What asv has just measured, with machine and day, and a link from each row to its graph."""
    browser.set_window_size(390, 844)
    browser.get(f"{site}/index.html")
    shown = browser.execute_script("return document.body.innerText")
    today = datetime.datetime.now(datetime.UTC).strftime("%-d %B %Y")
    head = browser.find_element("css selector", ".taken").text
    assert head.startswith(f"{platform.node()}: ")
    assert f"Taken on {today}, Python" in head
    assert shown.index("On this machine") < shown.index(head) < shown.index("Stored figures")
    browser.find_element("css selector", "summary").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    rows = [row.text for row in browser.find_elements("css selector", "details td a")]
    assert rows == ["functions.dropout", "layers.Dropout"]
    assert float(browser.find_element("css selector", "details td:nth-child(2)").text) > 0
    browser.find_element("css selector", "details td a").click()
    assert wait_for(browser, "return document.querySelector('#main-graph canvas') !== null")
    assert errors(browser) == []


def test_browser_shows_the_page_in_light_and_dark(browser, site):
    colours = []
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        browser.get(f"{site}/index.html")
        ask = "return ['body', 'svg .paper'].map(s => getComputedStyle(document.querySelector(s)))"
        colours.append(browser.execute_script(f"{ask}.map(c => [c.backgroundColor, c.fill])"))
    (light, light_paper), (dark, dark_paper) = colours
    assert light[0] == light_paper[1] == "rgb(255, 255, 255)"
    assert dark[0] == dark_paper[1] != light[0]


def test_browser_shows_the_grid_of_benchmarks(browser, site):
    browser.set_window_size(1200, 900)
    browser.get(f"{site}/index.html")
    browser.find_element("css selector", "a[href='history/index.html']").click()
    shown = wait_for(browser, "return document.querySelectorAll('#summarygrid-display .btn').length")
    assert shown == 3
    assert "dropout.time_forward" in browser.execute_script("return document.body.innerText")
    assert errors(browser) == []


@pytest.mark.parametrize("page", ["summarylist", "regressions"])
def test_browser_shows_the_list_and_the_regressions(browser, site, page):
    browser.get("about:blank")
    browser.get(f"{site}/history/index.html#/{page}")
    assert wait_for(browser, f"return document.querySelector('#{page}-display').innerText.length > 20")
    assert errors(browser) == []


def test_browser_draws_a_graph_with_points(browser, site):
    browser.get(f"{site}/history/index.html#functions.dropout.time_forward")
    plot = "window.$ && $('#main-graph').data('plot')"
    points = wait_for(browser, f"return {plot} && {plot}.getData().map(line => line.data)")
    assert [len(line) for line in points] == [3]
    assert all(seconds > 0 for _, seconds in points[0])
    canvas = "const c = document.querySelector('#main-graph canvas'); return c.getContext('2d')"
    assert wait_for(browser, f"{canvas}.getImageData(0, 0, c.width, c.height).data.some(v => v)")
    assert errors(browser) == []
