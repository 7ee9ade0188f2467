"""Rules that hold for the whole package: sizes, floors, light imports, the public names."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import expunge

PACKAGE = Path(expunge.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "expunge."))
LONGEST_FILE, LONGEST_FUNCTION = 600, 80

PUBLIC = {
    "Recipe": None,
    "load_recipe": ["name_or_path", "overrides"],
    "UserError": None,
    "run": ["recipe", "overrides", "runs"],
    "sweep": ["sweep", "overrides", "runs"],
    "dry_run": ["recipe", "overrides"],
    "audit": ["config", "out"],
    "AuditConfig": None,
    "check": ["recipe", "overrides"],
    "plan": ["recipe", "overrides"],
    "evaluate": ["config", "out"],
    "EvaluateConfig": None,
    "score_log": ["log", "retain_model", "split", "settings", "bootstrap", "seed"],
    "write_report": ["folders", "out"],
    "init": ["path", "source", "force"],
    "ls": ["kind"],
    "show": ["name"],
    "schema": [],
    "doctor": ["runs"],
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_every_file_is_a_module_that_can_be_imported():
    """Nothing is left out: as many modules as files, but for the package's own __init__."""
    assert len(MODULES) == len(FILES) - 1
    for name in set(MODULES) - {"expunge.__main__"}:
        assert importlib.import_module(name).__doc__, f"{name} says nothing about itself"


LIGHT = [name for name in MODULES if name.startswith(("expunge.data.", "expunge.metrics.", "expunge.report."))]
SLIGHT = ["expunge", "expunge.config.load", "expunge.registry", "expunge.records.base", "expunge.cli.main"]


@pytest.mark.parametrize("names", [SLIGHT, LIGHT], ids=["front door", "data, metrics, report"])
def test_torch_is_not_imported(names):
    """Reading a recipe, data, metrics and reports work without the seconds (and the memory) that torch takes."""
    assert len(names) > 4
    code = f"import sys, {', '.join(names)}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rooms_import_only_from_floors_below():
    """The contract in pyproject.toml, in a process of its own."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    root = next((folder for folder in PACKAGE.parents if (folder / "pyproject.toml").is_file()), None)
    if root is None:
        pytest.skip("the package is installed without its repository")
    done = subprocess.run([*command, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_every_room_stands_on_a_floor():
    """A room that the contract does not name could import anything."""
    import tomllib

    root = next((folder for folder in PACKAGE.parents if (folder / "pyproject.toml").is_file()), None)
    if root is None:
        pytest.skip("the package is installed without its repository")
    contract = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {part.strip().removeprefix("expunge.") for layer in contract["layers"] for part in layer.split("|")}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert (rooms | files) - named == {"recipes", "__init__", "__main__"}


def test_public_names():
    """What users build on: a change here is a change to them."""
    assert sorted(expunge.__all__) == sorted([*PUBLIC, "__version__"])
    for name, parameters in PUBLIC.items():
        if parameters is not None:
            assert list(inspect.signature(getattr(expunge, name)).parameters) == parameters, name
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        expunge.forget  # noqa: B018


def test_test_files_have_names_of_their_own():
    """pytest imports them by their bare names, so two of one name hide each other."""
    names = [path.name for path in Path(__file__).parents[1].rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
