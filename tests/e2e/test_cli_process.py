"""The command as a process of its own: start-up, exit codes, pipes and signals."""

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "expunge.cli.main"]
LIGHT = [["--help"], ["ls"], ["ls", "--json", "--debug"], ["show", "quickstart"], ["init", "--help"], ["--version"]]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_light_commands_do_not_import_torch(words):
    """Importing torch takes seconds; help and lists must not."""
    code = (
        "import sys; from expunge.cli.main import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy import'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_public_names_exist_and_import_nothing_early():
    """Every name in `dir(expunge)` can be had, and the package alone does not import torch."""
    code = (
        "import sys, expunge; assert 'torch' not in sys.modules;"
        "assert all(callable(getattr(expunge, name)) for name in dir(expunge) if not name.startswith('__'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exit_code_and_streams_of_a_mistake(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "expunge", "show", "npoo"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: 1 problem in the name:\n  - nothing is called 'npoo'. Did you mean 'npo'?\n"


def test_an_unreachable_hub_is_said_at_once(tmp_path, tiny_model):
    """Nothing is retried for half a minute, and no library talks in between."""
    done = subprocess.run(
        [*COMMAND, "evaluate", str(tiny_model)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=90,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
    )
    assert (done.returncode, done.stdout) == (2, "")
    said, error, *rest = done.stderr.splitlines()
    assert said == "The hub is not reachable: only files on this machine can be used."
    assert error.startswith("Error: 'locuslab/TOFU'")
    assert rest == []


@pytest.mark.parametrize("words", [["ls"], ["show", "quickstart"], ["ls", "--json"]], ids=" ".join)
def test_a_closed_pipe_is_quiet(words):
    """As in `expunge ls | head -0`: the reader is gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=buffered
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in {1, 141}
