"""Which exception ends in which message and exit code."""

import errno

import pytest

from expunge.cli import main as module
from expunge.cli.errors import explain
from expunge.errors import DataError, Interrupted


def test_user_errors_are_printed_as_they_are():
    failure = explain(DataError("x is empty.", fix="Fill it."))
    assert (failure.code, failure.title, failure.text) == (2, "Error:", "x is empty. Fill it.")


def test_stopping_says_where_the_work_is_and_how_to_go_on():
    failure = explain(Interrupted("in runs"))
    assert failure.code == 130
    assert "finished so far is in runs; repeat the same command to continue" in failure.text
    assert explain(KeyboardInterrupt()).code == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_the_users_to_mend(number):
    failure = explain(OSError(number, "x", "/data/file"))
    assert failure.code == 2
    assert "/data/file" in failure.text


def test_memory_points_to_the_settings_that_save_it():
    class OutOfMemoryError(RuntimeError):
        """Named as torch's, which tests of messages need not import."""

    for error in (MemoryError(), OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")):
        failure = explain(error)
        assert failure.code == 2
        assert "train.device_batch_size" in failure.text


def test_anything_else_is_a_bug():
    failure = explain(ZeroDivisionError("division by zero"))
    assert failure.code == 1
    assert "ZeroDivisionError: division by zero" in failure.text
    assert "bug" in failure.text
    assert "--debug" in failure.text


@pytest.fixture
def broken(monkeypatch):
    def fail(words, prog_name):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(module, "app", fail)
    monkeypatch.setattr(module, "quiet", lambda: None)


def test_the_traceback_is_shown_on_request_only(broken, capsys):
    assert module.main(["ls"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert module.main(["ls", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
