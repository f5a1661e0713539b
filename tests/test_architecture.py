"""The house rules: who may import whom, what stays out of `--help`, docstrings, sizes, who prints."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import conki_cli

ROOT = Path(conki_cli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LEFT = (
    *("system", "datasets", "config", "metrics"),
    *("data.store", "text", "data.raw", "data.extraction", "data.sources", "data.preparation", "runs"),
)
MAY_IMPORT_TORCH = ("model", "training")
RIGHT = ("experiments", "doctor", "reporting", "cli", "__main__")
ORDER = (*LEFT, *MAY_IMPORT_TORCH, *RIGHT)
"""A room imports only from the left; a folder counts as one room, but those of data/ have an order of their own."""

SLOW_LIBRARIES = {
    "torch",
    "transformers",
    "sklearn",
    "pandas",
    "h5py",
    "tokenizers",
    "safetensors",
    "scipy",
    "matplotlib",
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def of(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Return a decorator: one test that looks at all of these files, and names every one that breaks the rule."""

    def of_all(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{path.relative_to(ROOT)}: {error}")
            assert broken == []

        test.__name__ = rule.__name__
        return test

    return of_all


every_file = of(FILES)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(name: str) -> str:
    """Return the room that a module below the package belongs to; "" for the package's own __init__ and data's."""
    return next((room for room in ORDER if name == room or name.startswith(f"{room}.")), "")


def module_of(path: Path) -> str:
    """Return the room that a file belongs to."""
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the full names of what import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(nodes: Iterator[ast.AST]) -> set[str]:
    names = {room_of(name.partition(".")[2]) for name in imported(nodes) if name.startswith("conki_cli.")}
    return names - {""}


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: not function bodies, not `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def definitions(tree: ast.Module) -> Iterator[Definition]:
    """Yield a module's functions and classes, and the methods of its public classes; nothing inside functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Definition):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            waiting.extend(node.body)


def test_the_order_names_every_room() -> None:
    outside = {str(path.relative_to(ROOT)) for path in FILES if not module_of(path)}
    assert outside == {"__init__.py", "data/__init__.py"}
    assert {module_of(path) for path in FILES} - {""} == set(ORDER)


@every_file
def test_a_module_imports_only_from_the_left(path: Path) -> None:
    module = module_of(path)
    allowed = ORDER[: ORDER.index(module)] if module else ()
    assert own_modules(ast.walk(parsed(path))) - {module} <= set(allowed)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {path: {file for name in imported(ast.walk(parsed(path))) for file in loaded_by(name)} for path in FILES}
    waiting = {path: needs - {path} for path, needs in graph.items()}
    while ready := [path for path, needs in waiting.items() if not needs & waiting.keys()]:
        for path in ready:
            del waiting[path]
    assert sorted(str(path.relative_to(ROOT)) for path in waiting) == []


def loaded_by(name: str) -> set[Path]:
    """Return the file of what an import names: the module, or the one that defines the name."""
    found = file_of(name) or file_of(name.rpartition(".")[0])
    return {found} if found is not None and name.startswith("conki_cli.") else set()


@every_file
def test_modules_outside_the_torch_lines_import_no_slow_library(path: Path) -> None:
    if module_of(path) not in MAY_IMPORT_TORCH:
        assert not {name.split(".")[0] for name in imported(at_import(parsed(path)))} & SLOW_LIBRARIES


@pytest.mark.parametrize("command", [[], ["--help"], ["finetune", "--help"], ["settings", "--json"], ["--version"]])
def test_help_loads_no_slow_library(command: list[str]) -> None:
    program = (
        "import sys\nfrom conki_cli.cli import app\n"
        f"sys.argv = ['conki', *{command}]\n"
        + ("try:\n    app()\nexcept SystemExit:\n    pass\n" if command else "")
        + f"sys.stderr.write(' '.join(sorted({SLOW_LIBRARIES} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert bool(done.stdout) is bool(command)


@every_file
def test_every_public_thing_has_a_docstring(path: Path) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree)
    public = [node for node in definitions(tree) if not node.name.startswith("_")]
    assert [f"{node.name}, line {node.lineno}" for node in public if not ast.get_docstring(node)] == []


@every_file
def test_no_file_is_longer_than_450_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


@every_file
def test_no_function_body_is_longer_than_60_lines(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name


@every_file
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    printing = [ast.unparse(call) for call in calls]
    found = [
        name for name in printing if name in ("print", "typer.echo") or name.startswith(("sys.stdout", "sys.stderr"))
    ]
    assert not found or module_of(path) == "cli"


def file_of(name: str) -> Path | None:
    """Return the file of a module by its full name; None if it names no module of ours."""
    place = ROOT.parent.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def closure(module: str) -> set[Path]:
    """Return the files that importing a module loads from this package."""
    found: set[Path] = set()
    waiting = [f"conki_cli.{module}"]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] != "conki_cli":
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # a package is loaded before what lies in it
        path = file_of(name)
        if path is not None:
            found.add(path)
            waiting.extend(imported(at_import(parsed(path))))
    return found


@pytest.mark.parametrize("module", ["training.loop", "data.sources.mmsa", "cli"])
def test_the_files_counted_as_loaded_are_those_that_python_loads(module: str) -> None:
    program = (
        f"import sys, conki_cli.{module}\n"
        "print(*(sys.modules[name].__file__ for name in sys.modules if name.split('.')[0] == 'conki_cli'), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert {Path(line) for line in done.stdout.splitlines()} == closure(module)


def test_one_training_step_can_be_read_in_3500_lines() -> None:
    files = closure("training.loop") | closure("model.conki")
    assert {path.stem for path in files} >= {"loop", "contract", "conki", "losses", "batches", "layers", "sections"}
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 3500


def test_there_is_no_attic() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "common", "helpers", "misc"}


def constants(tree: ast.Module) -> Iterator[tuple[object, int]]:
    """Yield the constants of a module with their lines."""
    yield from ((node.value, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Constant))


NAME_RULES = ("datasets", "metrics", "reporting")
"""Where the names of published data sets stand: their facts; the two sets of metrics that are called like them."""


@every_file
def test_only_one_module_knows_facts_of_data_sets(path: Path) -> None:
    if module_of(path) in NAME_RULES or path.name == "sections.py":  # the defaults of --dataset and --external
        return
    named = [(value, line) for value, line in constants(parsed(path)) if value in ("mosi", "mosei", "sims", "simsv2")]
    assert named == []


LIBRARIES_WITHOUT_KINDS = ("system/readable.py", "training/evaluation.py", "data/raw/hdf5.py")
"""Where errors of HDF5, torch and safetensors are told apart by their words: these libraries say it nowhere else."""


def reads_wording(node: ast.AST) -> bool:
    """Say whether an expression looks into the words of an exception."""
    is_search = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")
    if not is_search and not isinstance(node, ast.Compare):
        return False
    return any(isinstance(part, ast.Call) and ast.unparse(part) == "str(error)" for part in ast.walk(node))


@every_file
def test_no_error_is_recognised_by_its_words(path: Path) -> None:
    if str(path.relative_to(ROOT)) in LIBRARIES_WITHOUT_KINDS:
        return
    found = [
        f"{ast.unparse(node)}, line {node.lineno}"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.expr) and reads_wording(node)
    ]
    assert found == []


doctors_files = of([path for path in FILES if path.parent == ROOT / "doctor"])
FILE_NAMES = re.compile(r"\.(jsonl?|toml|csv|h5|safetensors|part)\b|seed-|checkpoints/|predictions/|encoder/")


@doctors_files
def test_the_doctor_reads_no_file_itself(path: Path) -> None:
    readers = {*SLOW_LIBRARIES, "json", "csv", "tomllib", "numpy", "zlib", "hashlib"}
    assert not {name.split(".")[0] for name in imported(ast.walk(parsed(path)))} & readers
    opened = [ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    assert [name for name in opened if name == "open" or name.endswith((".open", ".read_text", ".read_bytes"))] == []


@doctors_files
def test_the_doctor_names_no_file_inside_a_run_and_judges_no_error(path: Path) -> None:
    named = [(value, line) for value, line in constants(parsed(path)) if FILE_NAMES.search(str(value))]
    assert named == []
    assert [node.lineno for node in ast.walk(parsed(path)) if isinstance(node, ast.ExceptHandler)] == []
