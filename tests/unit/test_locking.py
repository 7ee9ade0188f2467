"""A lock is held by one process at a time, is free after its death, and names its owner."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from expunge.errors import UserError
from expunge.locking import locked

HOLD = """
import sys, time
from pathlib import Path
from expunge.locking import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock `tmp_path/lock`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"the folder x is in use by process {holder.pid} on ") as error,
        locked(tmp_path / "lock", "the folder x"),
    ):
        pass
    assert "repeat the command" in str(error.value)


def test_a_killed_owner_blocks_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock-owner").is_file(), "it could not clean up"
    with locked(tmp_path / "lock", "the folder x"):
        assert str(os.getpid()) in (tmp_path / "lock-owner").read_text()
    assert not (tmp_path / "lock-owner").exists()


def test_waiting_ends_when_the_owner_does(tmp_path, holder, capsys):
    threading.Timer(1.0, holder.kill).start()
    started = time.monotonic()
    with locked(tmp_path / "lock", "the model x", wait=True):
        assert time.monotonic() - started > 0.5
    assert f"Waiting until process {holder.pid}" in capsys.readouterr().err.replace("\n", " ")


def test_an_error_inside_releases_it(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "x"):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
