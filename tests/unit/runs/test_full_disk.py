"""A full disk is said to be one, whichever library notices it: the texts are those that each of them gave on one."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from expunge.errors import UserError
from expunge.rundir import explain_disk_errors

SAID = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
]


@pytest.mark.parametrize("error", SAID, ids=lambda error: type(error).__name__)
def test_full_disk(error):
    with pytest.raises(UserError, match="the disk is full") as found, explain_disk_errors(Path("place")):
        raise error
    assert "choose another folder with --runs" in str(found.value)


def test_other_errors_are_left_alone():
    with pytest.raises(ValueError, match="something else"), explain_disk_errors(Path("place")):
        raise ValueError("something else")
