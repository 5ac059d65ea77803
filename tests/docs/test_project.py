"""The files that people and services look for in a project agree with each other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import faults
import pytest

import fastdrop as fd

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(name):
    """The data of a file of YAML."""
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the manual's tools: pip install '.[docs]'")
    return yaml.safe_load(read(name))


def test_the_citation_is_of_this_version():
    citation = parsed("CITATION.cff")
    assert citation["version"] == fd.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["title"].removeprefix("fastdrop: ").lower() == PROJECT["description"].lower()


def test_addresses_are_plainly_placeholders():
    """Until there is a home; ".invalid" is a domain that leads nowhere for ever."""
    assert set(PROJECT["urls"]) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith("https://fastdrop.invalid/") for url in PROJECT["urls"].values())


def test_the_manual_says_which_pytorch_is_tested():
    extras = PROJECT["optional-dependencies"]
    (allowed,) = (each.removeprefix("torch>=") for each in extras["torch"] if each.startswith("torch>="))
    needed = [each for extra in extras.values() for each in extra]
    tested = {each.removeprefix("torch==") for each in needed if each.startswith("torch==")}
    assert len(tested) == 1
    said = f"PyTorch {allowed} or later; the tests run with {tested.pop()} alone"
    assert said in read("docs/start/install.md")


def test_the_workflow_runs_what_ci_does_from_the_oldest_python_on():
    job = parsed(".github/workflows/ci.yml")["jobs"]["checks"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    versions = job["strategy"]["matrix"]["python"]
    assert all(isinstance(version, str) for version in versions)  # 3.10 would be the number 3.1
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")
    python = "Programming Language :: Python :: 3."
    assert [f"3.{each.removeprefix(python)}" for each in PROJECT["classifiers"] if python in each] == versions
    assert f"with Python {', '.join(versions[:-1])} and {versions[-1]}." in read("docs/start/install.md")


def test_the_hooks_are_those_of_make_check():
    """All local, by the programs in .venv, and with the arguments that `make check` has."""
    repositories = parsed(".pre-commit-config.yaml")["repos"]
    assert [found["repo"] for found in repositories] == ["local"]
    entries = [hook["entry"] for hook in repositories[0]["hooks"]]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    expected = [check.removesuffix(" .") for check in checks]
    assert len(expected) >= 3
    assert set(expected) <= set(entries)
    assert all(entry.startswith(".venv/bin/") for entry in entries)


def test_every_stage_of_the_hooks_is_installed():
    """Else `pre-commit install` installs the hooks of commits alone."""
    config = parsed(".pre-commit-config.yaml")
    hooks = config["repos"][0]["hooks"]
    stages = {stage for hook in hooks for stage in hook.get("stages", config["default_stages"])}
    assert "pre-push" in stages
    assert set(config["default_install_hook_types"]) == stages


def targets():
    """The names of the Makefile's targets."""
    return set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))


def test_ci_makes_targets_that_exist():
    made = re.findall(r"^\s*(?:if )?(?:\w+=\S+ )*make (?:--\S+ )*([\w-]+)", read(".ci/run"), re.MULTILINE)
    assert {"demo", "test-all", "docs", "cuda-check"} <= set(made) <= targets()


@pytest.mark.parametrize("script", [".ci/run", ".ci/pythons"])
def test_scripts_of_ci_are_read_by_bash(script):
    assert subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True).stderr == ""


def test_every_target_has_a_recipe_and_none_is_a_file():
    """`make --dry-run` reads each; a file of a target's name would make it do nothing."""
    phony = set(re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", read("Makefile"), re.MULTILINE)[1].split()) - {"\\"}
    assert phony == targets()
    for target in sorted(phony):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_make_fuzz_runs_state_machines_too():
    """Its mark comes by itself to tests that have `given`, not to those that run a machine."""
    assert "-m hypothesis " in read("Makefile")
    texts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py")}
    machines = [name for name, text in texts.items() if "\nfrom hypothesis.stateful import" in text]
    assert machines
    assert [name for name in machines if "\n@pytest.mark.hypothesis\n" not in texts[name]] == []


def test_make_clean_clears_what_git_ignores():
    """All but what hypothesis keeps, and what Python leaves beside any program."""
    recipe = subprocess.run(["make", "--dry-run", "clean"], cwd=ROOT, capture_output=True, text=True).stdout
    cleared = set(recipe.split())
    ignored = {line.strip("/") for line in read(".gitignore").split()}
    kept = {"__pycache__", "*.egg-info", ".hypothesis"}
    assert kept < ignored
    ignored = ignored - kept - {".venv*"} | {".venv", ".venv-cuda"}
    assert ignored - cleared == set()


@pytest.mark.parametrize(("home", "status"), [("fastdrop.invalid", 1), ("fastdrop.org", 0)])
def test_make_release_check_fails_at_placeholders(tmp_path, home, status):
    """By its last command, which looks into what was installed last."""
    make = ["make", "--no-print-directory", "--dry-run", "release-check"]
    recipe = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    packages = tmp_path / "out/release/lib/python3.11/site-packages"
    metadata = packages / f"fastdrop_numpy-{fd.__version__}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Project-URL: Homepage, https://{home}/\n")
    command = "\n".join(recipe.stdout.splitlines()[-2:])
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode == status
    metadata.unlink()
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode != 0


def test_ci_builds_the_manual_that_it_tests():
    """Once, by a command that puts it where the tests look for it."""
    assert re.search(r"^make docs\nFASTDROP_MANUAL=out/docs make test-all", read(".ci/run"), re.MULTILINE)
    assert re.search(r"^docs: .*\n.* docs out/docs$", read("Makefile"), re.MULTILINE)


def test_editors_are_told_the_line_length_of_ruff():
    tools = tomllib.loads(read("pyproject.toml"))["tool"]
    assert f"max_line_length = {tools['ruff']['line-length']}" in read(".editorconfig")


def test_the_manual_says_how_to_run_the_doctests_of_a_name():
    """In a noise's own file pytest finds none, because public names say that they are of fastdrop itself."""
    told = re.search(
        r"^\.venv/bin/python (-m pytest fastdrop\S+ -k .*?) +#", read("docs/development/tests.md"), re.M
    )
    command = [sys.executable, *told[1].split(), "-q", "-p", "no:cacheprovider"]
    plain = os.environ | {"PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=plain)
    assert re.search(r"^[2-9] passed, \d\d+ deselected", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_each_planted_fault_has_its_place():
    """Else `tests/faults.py` would stop at the first whose text the package no longer has."""
    for fault in faults.FAULTS:
        assert (ROOT / "fastdrop" / fault.file).read_text().count(fault.right) == 1, fault.name
        assert fault.right != fault.wrong


def test_the_table_of_planted_faults_has_them_all():
    table = read("tests/README.md").partition("\n## Planted faults\n")[2]
    rows = re.findall(r"^\| (\S+\.py) \| (.+) \| `(\S+?::\w+)(\[.+\])?` \|$", table, re.MULTILINE)
    assert [(file, name) for file, name, *_ in rows] == [(fault.file, fault.name) for fault in faults.FAULTS]
    for fault, (*_, test, _) in zip(faults.FAULTS, rows, strict=True):
        assert any(f"tests/{test}".startswith(tests) for tests in fault.tests.split()), fault.name
