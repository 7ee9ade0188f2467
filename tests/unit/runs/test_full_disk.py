"""A full disk is recognised in the errors of all libraries; the messages were recorded on a full disk."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from expunge.errors import UserError
from expunge.rundir import explain_disk_errors

ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_full_disk(error):
    with pytest.raises(UserError, match="the disk is full") as caught, explain_disk_errors(Path("file")):
        raise error
    assert "choose another folder with --runs" in str(caught.value)


def test_other_errors_are_not_changed():
    with pytest.raises(ValueError, match="something else"), explain_disk_errors(Path("file")):
        raise ValueError("something else")
