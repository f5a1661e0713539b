"""The house rules: who may import whom, what stays out of `--help`, docstrings, sizes, who prints."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import conki_cli

ROOT = Path(conki_cli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]
every_file = pytest.mark.parametrize("path", FILES, ids=IDS)

TORCH_FREE_LEFT = (
    "errors",
    "readable",
    "files",
    "locks",
    "signals",
    "workspace",
    "switches",
    "config",
    "metrics",
    "store",
    "sources",
    "environment",
    "text",
    "runs",
    "preparation",
    "comparison",
)
MAY_IMPORT_TORCH = (
    "batches",
    "packing",
    "layers",
    "losses",
    "text_encoder",
    "contract",
    "model",
    "baselines",
    "zoo",
    "frozen",
    "checkpoint",
    "evaluation",
    "training",
    "resuming",
    "inference",
    "jobs",
    "stages",
    "experiments",
    "contests",
)
TORCH_FREE_RIGHT = ("doctor", "tables", "screen", "cli")
ORDER = (*TORCH_FREE_LEFT, *MAY_IMPORT_TORCH, *TORCH_FREE_RIGHT, "__main__")
"""A module imports only from the left; a sub-package counts as one module."""

SLOW_LIBRARIES = {"torch", "transformers", "sklearn", "pandas", "h5py", "tokenizers", "safetensors", "scipy"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """Return the module in ORDER that a file belongs to; "" for the package's own __init__."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the full names of what import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(nodes: Iterator[ast.AST]) -> set[str]:
    names = {name.split(".")[1] for name in imported(nodes) if name.startswith("conki_cli.")}
    return names & set(ORDER)


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


def test_the_order_names_every_module() -> None:
    assert {module_of(path) for path in FILES} - {"", "presets"} == set(ORDER)


@every_file
def test_a_module_imports_only_from_the_left(path: Path) -> None:
    module = module_of(path)
    allowed = ORDER[: ORDER.index(module)] if module else ()
    assert own_modules(ast.walk(parsed(path))) - {module} <= set(allowed)


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
    assert not found or module_of(path) in ("cli", "screen")


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


@pytest.mark.parametrize("module", ["training", "sources.mmsa", "cli"])
def test_the_files_counted_as_loaded_are_those_that_python_loads(module: str) -> None:
    program = (
        f"import sys, conki_cli.{module}\n"
        "print(*(sys.modules[name].__file__ for name in sys.modules if name.split('.')[0] == 'conki_cli'), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert {Path(line) for line in done.stdout.splitlines()} == closure(module)


def test_one_training_step_can_be_read_in_3500_lines() -> None:
    files = closure("training") | closure("model")
    assert {path.stem for path in files} >= {"training", "contract", "model", "losses", "batches", "layers", "sections"}
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 3500


def test_there_is_no_attic() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "common", "helpers", "misc"}
