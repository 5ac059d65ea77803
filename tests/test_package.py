"""The rules of the house: what imports what, what the package shows, and what its objects are called."""

import ast
import doctest
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import every_layer
import numpy as np
import pytest
from every_name import FACES, INTEGRATIONS, public

import fastdrop as fd

FOLDER = Path(fd.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
OPTIONAL = {"torch", "dask", "autograd", "jax", "rich", "matplotlib", "scipy", "numba"}

# What each part of the package may import beside itself. What computes (_lanes, _cpu, _cuda) is seen through
# _backends alone, but for the parts that are made for one machine or look at the machine itself.
ARRAYS = {"_stream", "_arrays"}
MACHINES = {"_lanes", "_cpu", "_cuda", "_backends"}
NOISES = ARRAYS | {"_backends", "schedules", "_noises"}
PUBLIC = NOISES | {"_training", "moments", "__init__"}
MAY_IMPORT = {
    "_extras": set(),
    "_stream": set(),
    "_arrays": {"_stream"},
    "_lanes": {"_stream"},
    "schedules": ARRAYS,
    "_cpu": ARRAYS | {"_lanes"},
    "_cuda": ARRAYS | {"_lanes"},
    "_backends": ARRAYS | {"_lanes", "_cpu", "_cuda"},
    "_noises": NOISES,
    "_training": NOISES,
    "moments": NOISES,
    "__init__": PUBLIC | MACHINES,  # it publishes names from wherever they are
    "autograd": PUBLIC,
    "dask": PUBLIC,
    "torch": PUBLIC,
    "torch._openmp": PUBLIC | MACHINES,
    "torch._softmax": PUBLIC | MACHINES,
    "_tools": PUBLIC | MACHINES,
    "__main__": {"_tools"},
}
# Which parts may import a package that not everybody has, or that is slow to import.
MAY_NEED = {
    "torch": {"torch", "_tools"},  # a tool measures PyTorch and JAX as peers
    "jax": {"_tools"},
    "dask": {"dask"},
    "autograd": {"autograd"},
    "ml_dtypes": {"torch"},
    "rich": {"_tools"},
    "tqdm": {"_training"},
    "numba": {"_stream", "_lanes", "_cpu", "_cuda", "_backends", "torch", "_tools"},
    "llvmlite": {"_lanes", "_cpu", "_cuda", "torch", "_tools"},
}


def part(name):
    """The part of the package to which a module, or a name in a module, belongs."""
    for words in (2, 1):
        found = ".".join(name.split(".")[1 : 1 + words])
        if found in MAY_IMPORT:
            return found
    return "__init__"


def allowed(module, imported):
    """Whether the rule of the house lets a module import something."""
    package, importer = imported.partition(".")[0], part(module)
    if package != "fastdrop":
        return package not in MAY_NEED or importer.partition(".")[0] in MAY_NEED[package]
    target = part(imported).partition(".")[0]
    return target in MAY_IMPORT[importer] | {"_extras", importer.partition(".")[0]}


def module_name(path):
    """The name by which a file of the package is imported; that of a folder's __init__ ends with it."""
    return ".".join(("fastdrop", *path.relative_to(FOLDER).with_suffix("").parts))


def imports(path):
    """The full names of all that a file imports, also inside functions, but not for type checkers alone."""
    todo = [ast.parse(path.read_text())]
    for node in todo:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write the whole name of the module in an import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        todo += node.orelse if for_types else ast.iter_child_nodes(node)


def test_imports_only_point_down():
    wrong = [(module_name(path), name) for path in FILES for name in imports(path)]
    wrong = [pair for pair in wrong if not allowed(*pair)]
    assert not wrong, "\n".join(f"{module} imports {name}" for module, name in wrong)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("fastdrop._cuda.run", "fastdrop._cpu.run.placed"),
        ("fastdrop._cpu.run", "fastdrop._cuda.run"),
        ("fastdrop._cpu.run", "fastdrop._backends.fuse"),
        ("fastdrop._arrays.host", "fastdrop._lanes.float16"),
        ("fastdrop._lanes.memory", "fastdrop._arrays.host"),
        ("fastdrop._stream.keys", "fastdrop._arrays.numbers"),
        ("fastdrop._noises.alpha", "fastdrop._cpu.run.fuse"),
        ("fastdrop._noises.alpha", "fastdrop._lanes.formulas"),
        ("fastdrop._noises.alpha", "fastdrop"),
        ("fastdrop._noises.alpha", "fastdrop.moments"),
        ("fastdrop._noises.alpha", "fastdrop.Key"),
        ("fastdrop.schedules", "fastdrop._noises._layer"),
        ("fastdrop._training.r_drop", "fastdrop._cpu.run.fuse"),
        ("fastdrop.__init__", "fastdrop.torch"),
        ("fastdrop.torch._functions", "fastdrop._cpu.run"),
        ("fastdrop.torch._functions", "fastdrop.dask"),
        ("fastdrop.autograd", "fastdrop._tools.bench"),
        ("fastdrop.dask", "torch"),
        ("fastdrop.torch._swap", "dask.array"),
        ("fastdrop._noises.alpha", "autograd.numpy"),
        ("fastdrop._noises.alpha", "numba.njit"),
        ("fastdrop._arrays.host", "ml_dtypes"),
    ],
)
def test_a_wrong_import_is_seen(module, imported):
    assert not allowed(module, imported)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("fastdrop._noises.alpha", "fastdrop._noises.bernoulli.Dropout"),
        ("fastdrop._noises._layer", "fastdrop.schedules.schedule_state"),
        ("fastdrop._noises.alpha", "fastdrop._backends.fuse"),
        ("fastdrop._backends", "fastdrop._cuda.run"),
        ("fastdrop.schedules", "fastdrop._arrays.numbers.rate"),
        ("fastdrop.torch._openmp", "fastdrop._cpu.threads"),
        ("fastdrop.torch.__init__", "fastdrop.torch._openmp"),
        ("fastdrop.torch._openmp", "torch.nn.functional"),
        ("fastdrop.autograd", "fastdrop"),
        ("fastdrop._tools.bits", "fastdrop._stream.reference"),
        ("fastdrop._noises.alpha", "numpy.typing.NDArray"),
    ],
)
def test_a_right_import_is_allowed(module, imported):
    assert allowed(module, imported)


def test_every_file_belongs_to_a_part():
    of_init = {module_name(path) for path in FILES if part(module_name(path)) == "__init__"}
    assert of_init == {"fastdrop.__init__"}


def test_no_file_only_passes_names_on():
    """But the faces of the public subpackages, which do nothing else."""
    for path in FILES:
        if path.relative_to(FOLDER).as_posix() in ("__init__.py", "torch/__init__.py"):
            continue
        body = ast.parse(path.read_text()).body
        docstring, *rest = body
        assert isinstance(docstring, ast.Expr), path
        assert not rest or any(map(does_something, rest)), path


def does_something(statement):
    """Whether a statement is more than an import, or another name for something."""
    if isinstance(statement, ast.Assign):
        other_name = isinstance(statement.value, ast.Name | ast.Attribute)
        return not other_name and ast.unparse(statement.targets[0]) != "__all__"
    return not isinstance(statement, ast.Import | ast.ImportFrom)


def test_the_manual_lists_the_parts_in_their_order():
    page = FOLDER.parent / "docs" / "development" / "index.md"
    rows = re.findall(r"^\| ([`\w].*?) \| ", page.read_text(), re.MULTILINE)
    floors = {
        "__init__" if name == "fastdrop" else name: n
        for n, row in enumerate(rows)
        for name in in_backticks(row)
    }
    parts = {name.partition(".")[0] for name in MAY_IMPORT} - {"__main__"}
    assert parts <= set(floors)
    assert all(floors[below] <= floors[name] for name in parts for below in MAY_IMPORT[name])


def in_backticks(text):
    """What a text has in backticks."""
    return re.findall(r"`(.*?)`", text)


@pytest.mark.parametrize(
    "page", ["README.md", "benchmarks/README.md", "examples/README.md", "docs/reference/batteries.md"]
)
def test_pages_name_files_that_exist(page):
    root, page = FOLDER.parent, FOLDER.parent / page
    named = set(re.findall(r"[\w/]+\.py\b", page.read_text()))
    inside = {path.name for path in FILES}
    assert named
    assert not [n for n in named - inside if not (root / n).exists() and not (page.parent / n).exists()]


def printed_by(script):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_shows_what_is_public_and_nothing_else():
    assert len(fd.__all__) == len(set(fd.__all__))
    shown = printed_by("import fastdrop; print(*(n for n in dir(fastdrop) if not n.startswith('_')))").split()
    assert sorted(shown) == sorted(fd.__all__)
    now = {name for name in dir(fd) if not name.startswith("_")}
    assert now - set(INTEGRATIONS) == set(fd.__all__)  # whatever the tests before this one have imported


def test_importing_loads_neither_numba_nor_an_optional_package():
    loaded = printed_by("import sys, fastdrop; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not OPTIONAL & set(loaded.split())


def test_importing_loads_nothing_slow_that_few_calls_need():
    script = (
        "import sys, numpy; before = set(sys.modules); import fastdrop; print(*set(sys.modules) - before)"
    )
    assert not {"subprocess", "pathlib", "secrets"} & set(printed_by(script).split())


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_an_integration_is_imported_when_it_is_asked_for(name):
    pytest.importorskip(name)
    script = f"import sys, fastdrop as fd; before = 'fastdrop.{name}' in sys.modules"
    assert printed_by(f"{script}; print(before, fd.{name}.dropout.__name__)") == "False dropout\n"


@pytest.mark.parametrize("name", INTEGRATIONS)
@pytest.mark.parametrize("statement", ["import fastdrop.{0}", "import fastdrop; fastdrop.{0}"])
def test_without_its_package_an_integration_says_what_to_install(statement, name):
    script = f"import sys; sys.modules['{name}'] = None; {statement.format(name)}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"fastdrop.{name} needs {name}" in found.stderr
    assert f"; use pip install '.[{name}]' in a checkout of fastdrop" in found.stderr


def texts(path):
    """What a file says in its strings, without docstrings and comments."""
    tree = ast.parse(path.read_text())
    documented = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    prose = {ast.get_docstring(node, clean=False) for node in documented}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in prose:
            yield node.value


def test_how_to_install_an_extra_is_said_in_one_place():
    """One word of a package that is no extra is another matter."""
    hints = {
        path.relative_to(FOLDER).as_posix(): text
        for path in FILES
        for text in texts(path)
        if "pip install" in text and "pip install tqdm" not in text
    }
    assert set(hints) == {"_extras.py"}


def test_hints_name_extras_that_there_are():
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    asked = re.compile(r"how_to_install\([\"'](\w+)[\"']\)")
    named = {extra for path in FILES for extra in asked.findall(path.read_text())}
    assert named == {"bench", "cuda"}
    assert named | set(INTEGRATIONS) <= set(project["optional-dependencies"])


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'fastdrop' has no attribute 'dropot'"):
        fd.dropot  # noqa: B018


def test_help_works_without_optional_packages():
    absent = sorted(OPTIONAL - {"numba"})
    script = f"import sys; sys.modules.update(dict.fromkeys({absent})); import fastdrop; help(fastdrop)"
    shown = printed_by(script)
    assert all(name in shown for name in fd.__all__)
    listed = shown.partition("PACKAGE CONTENTS")[2].partition("\n\n")[0].split("\n")
    assert len(listed) < 25  # the folders and the public modules


@pytest.mark.parametrize("face", FACES)
def test_public_objects_say_where_they_are_public(face):
    found = public(face)
    assert found
    places = {name: (value.__module__, value.__qualname__) for name, value in found.items()}
    assert places == {name: (face, name) for name in found}


def pickled(value):
    """Pickles of an object, of each version."""
    return [pickle.dumps(value, version) for version in range(pickle.HIGHEST_PROTOCOL + 1)]


def assert_names_no_file(value):
    """No pickle has the name of a private file, and each can be read."""
    for found in pickled(value):
        assert b"fastdrop._" not in found
        assert b"fastdrop.torch._" not in found
        pickle.loads(found)


@pytest.mark.parametrize("face", FACES)
def test_pickled_functions_and_classes_name_no_file(face):
    for value in public(face).values():
        assert_names_no_file(value)


@pytest.mark.parametrize("kind", every_layer.CASES)
def test_pickled_layers_name_no_file(kind):
    case = every_layer.CASES[kind]
    layer = case.make(42)
    layer(*case.arguments())
    assert_names_no_file(layer)


def test_pickled_results_name_no_file():
    masks = fd.RecurrentDropout(0.5, 0.5, gates=2, rng=42)()
    assert_names_no_file(fd.Key(42, 3))
    assert_names_no_file(fd.RecurrentDropout(0.5, rng=42))
    assert_names_no_file(masks)
    assert_names_no_file(masks.recurrent)
    assert_names_no_file(fd.mc_predict(lambda x, key: fd.dropout(x, 0.5, key), np.ones(8), 4, 42))
    assert_names_no_file(fd.moments.dropout(0.5))


@pytest.mark.parametrize(
    "schedule",
    [
        fd.schedules.Constant(0.5),
        fd.schedules.Linear(0.5, steps=3),
        fd.schedules.Cosine(0.5, steps=3),
        fd.schedules.Curriculum(0.5, gamma=0.1),
        fd.schedules.Annealed(0.5, gamma=0.1),
        fd.schedules.Early(0.5, steps=3),
        fd.schedules.Late(0.5, steps=3),
        fd.schedules.Step(0.5, boundaries=(2,), rates=(0.1,)),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_pickled_schedules_name_no_file(schedule):
    assert_names_no_file(schedule)
    assert_names_no_file(fd.Scheduler([fd.Dropout(schedule, rng=42)]))


def test_pickled_modules_name_no_file():
    torch = pytest.importorskip("torch")
    fdt = pytest.importorskip("fastdrop.torch")
    kinds = [kind for kind in public("fastdrop.torch").values() if inspect.isclass(kind)]
    modules = [kind for kind in kinds if issubclass(kind, torch.nn.Module)]
    assert len(modules) > 8
    for kind in modules:
        options = {"replacement": 1} if kind is fdt.TokenDropout else {}
        assert_names_no_file(kind(0.5, rng=42, **options))
        assert_names_no_file(kind(0.5, **options))
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    assert_names_no_file(fdt.replace_dropout(model))
    assert_names_no_file(model)


def test_names_of_tests_hold_no_address(request):
    """Which would differ from process to process, so that pytest-xdist could not share the tests."""
    assert not [item.nodeid for item in request.session.items if re.search("0x[0-9a-f]{8}", item.nodeid)]


def test_every_public_name_has_a_runnable_example():
    for name in fd.__all__:
        value = getattr(fd, name)
        if callable(value):
            assert ">>> " in (value.__doc__ or ""), name


def examples(value, name=None, **options):
    """The docstrings with examples of a module or an object, as pytest finds them, by name."""
    found = doctest.DocTestFinder().find(value, name, **options)
    return {test.name: test for test in found if test.examples}


def methods_examples(face):
    """Those in methods of public classes that pytest misses.

    It takes a method for another module's, since the method says in which file it is, and its class does not.
    """
    collected = examples(importlib.import_module(face))
    for name, value in public(face).items():
        found = examples(value, f"{value.__module__}.{name}", module=False, globs={})
        yield from (test for name, test in found.items() if name not in collected)


@pytest.mark.parametrize("face", FACES)
def test_examples_in_methods(face):
    public(face)
    for test in methods_examples(face):
        said = []
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


def written_examples(tree, name=""):
    """The names of the functions, the classes and the file whose docstrings have examples."""
    if ">>> " in (ast.get_docstring(tree) or ""):
        yield name
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from written_examples(node, f"{name}.{node.name}".lstrip("."))


def test_every_written_example_is_run():
    for name in INTEGRATIONS:
        pytest.importorskip(f"fastdrop.{name}")
    written = [name for path in FILES for name in written_examples(ast.parse(path.read_text()))]
    run = [
        (info.name, name)
        for info in pkgutil.walk_packages(fd.__path__, "fastdrop.")
        for name in examples(importlib.import_module(info.name))
    ]
    run += [("fastdrop", name) for name in examples(fd)]
    run += [(face, test.name) for face in FACES for test in methods_examples(face)]
    assert len(run) == len(set(run))
    ours = Counter(name.removeprefix(module).lstrip(".") for module, name in run)
    assert not Counter(written) - ours


def test_nothing_evaluates_text_unpickles_or_starts_processes():
    """But for the cache of code, made of pickles, DLPack, locks and OpenMP in C, and warmup's processes."""
    risky = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp"}
    permitted = {
        "_arrays/dlpack.py": {"ctypes"},
        "_cpu/compiled.py": {"pickle"},
        "_cpu/team.py": {"ctypes"},
        "_noises/_warmup.py": {"subprocess"},
        "torch/_openmp.py": {"ctypes"},
    }
    modules = {"pickle", "marshal", "shelve", "subprocess", "tempfile", "socket", "ctypes", "urllib"}
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", None)
                assert called not in risky, path
        names = {name.partition(".")[0] for name in imports(path)} & modules
        if names:
            found[path.relative_to(FOLDER).as_posix()] = names
    assert found == permitted
