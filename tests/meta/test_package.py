"""Rules for the package: public names, sizes, file names, layers and imports without torch."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import expunge

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "expunge"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "expunge."))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 80

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


def test_public_names():
    """Users depend on these names and parameters: changing one is a change of the API."""
    assert sorted(expunge.__all__) == sorted([*PUBLIC, "__version__"])
    for name, parameters in PUBLIC.items():
        if parameters is not None:
            assert list(inspect.signature(getattr(expunge, name)).parameters) == parameters, name
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        expunge.forget  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    long_functions = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long_functions == []


def test_no_file_name_begins_with_an_underscore():
    """Members may be packages, so a helper of one lives in its package and needs no underscore."""
    private = [path for path in PACKAGE.rglob("_*") if path.name not in ("__init__.py", "__main__.py", "__pycache__")]
    assert [str(path.relative_to(ROOT)) for path in private if path.parent.name != "__pycache__"] == []


def test_every_module_can_be_imported_and_has_a_docstring():
    assert len(MODULES) == len(FILES) - 1  # all but the package's own __init__
    for name in set(MODULES) - {"expunge.__main__"}:
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"


ENTRY_POINTS = ["expunge", "expunge.config.load", "expunge.registry", "expunge.records.base", "expunge.cli.main"]
WITHOUT_MODEL = [name for name in MODULES if name.startswith(("expunge.data.", "expunge.metrics.", "expunge.report."))]


@pytest.mark.parametrize("names", [ENTRY_POINTS, WITHOUT_MODEL], ids=["entry points", "data, metrics, report"])
def test_torch_is_not_imported(names):
    """Recipes, data, metrics and reports work without the seconds and the memory that importing torch costs."""
    assert len(names) > 4
    code = f"import sys, {', '.join(names)}; assert 'torch' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_layers_are_respected_and_there_are_no_import_cycles():
    """The contracts in pyproject.toml; imports inside functions count, imports for type checking do too."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    process = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "No import cycles KEPT" in process.stdout
    assert "2 kept, 0 broken" in process.stdout


def test_every_package_is_in_a_layer():
    """A package that the contract does not name could import anything."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {name.strip().removeprefix("expunge.") for layer in contract["layers"] for name in layer.split("|")}
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert (packages | modules) - named == {"recipes", "__init__", "__main__"}


def test_test_files_have_distinct_names():
    """pytest imports test files by their bare names, so one of two files with the same name is hidden."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
