"""`expunge view` as a process: start, answer, stop, and its mistakes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

RUNS = Path(__file__).parents[2] / "results/runs"
COMMAND = [sys.executable, "-m", "expunge", "view"]


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(RUNS / "whp-books", tmp_path / "runs/whp-books")
    return tmp_path / "runs"


@pytest.fixture
def process(runs):
    """The command on a free port, its standard output a pipe."""
    command = [*COMMAND, str(runs), "--port", "0", "--no-open"]
    # A group of its own, so that Ctrl-C reaches only the command.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        yield started
        started.kill()


def address_of(process):
    line = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43})", line)
    assert match, line + process.stderr.read()
    return match.group(), int(match.group(1))


def test_start_fetch_the_list_and_stop(process):
    address, port = address_of(process)
    assert port
    client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        client.open(f"http://127.0.0.1:{port}/api/runs")
    assert b"expunge view" in client.open(address).read()
    assert b"whp-books" in client.open(f"http://127.0.0.1:{port}/api/runs").read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "Stopped."
    assert "Traceback" not in err


def test_it_listens_on_this_machine_only(process):
    """The socket is bound to the loopback address: every other address of the machine refuses the connection."""
    _, port = address_of(process)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    # Another address of the loopback network reaches a socket that is bound to all addresses, but not this one.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def run(*words):
    done = subprocess.run(
        [*COMMAND, *map(str, words), "--no-open"], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_mistakes(runs, tmp_path):
    code, out, err = run(tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {tmp_path / 'nowhere'} does not exist.")
    code, out, err = run(runs / "whp-books")
    assert (code, out) == (2, "")
    assert "is one run, not a folder of runs" in err
    (tmp_path / "empty").mkdir()
    code, out, err = run(tmp_path / "empty")
    assert (code, out) == (2, "")
    assert "no folder in it has a recipe.yaml" in err


def test_a_busy_port(runs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run(runs, "--port", port)
    assert (code, out) == (2, "")
    assert err == (
        f"Error: port {port} is in use, perhaps by another viewer. Choose another one with --port, or --port 0 for a "
        "free one.\n"
    )


def test_a_missing_package_names_the_extra(runs, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*COMMAND, str(runs)], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 2
    assert "pip install 'expunge[view]'" in done.stderr
