"""Peak memory of a part of the work."""

import pytest
import torch

from expunge.modeling.peak_memory import CLEAR, peak_bytes, reset_peak, resident_peak

MIB = 2**20

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its memory is what counts")


def test_the_peak_holds_what_was_given_back():
    """160 MiB are taken and given back; the peak has grown by them, whatever is resident afterwards."""
    reset_peak()
    before = peak_bytes()
    block = torch.ones(40 * MIB)
    del block
    assert peak_bytes() - before > 120 * MIB


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux sets a peak back")
def test_a_new_measurement_forgets_the_old_peak():
    block = torch.ones(40 * MIB)
    del block
    high = peak_bytes()
    reset_peak()
    assert high - peak_bytes() > 120 * MIB


def test_without_proc_the_system_is_asked(monkeypatch, tmp_path):
    """Both ways count the same pages; getrusage's may be older, never smaller by more than what just came."""
    monkeypatch.setattr("expunge.modeling.peak_memory.CLEAR", tmp_path / "no" / "such")
    reset_peak()
    monkeypatch.setattr("expunge.modeling.peak_memory.STATUS", tmp_path / "none")
    assert resident_peak() > 50 * MIB


@pytest.mark.skipif(not CLEAR.exists(), reason="the C library of Linux is the one that keeps freed pieces")
def test_freed_pieces_go_back_to_the_system():
    """1,600 pieces of 100 KiB, below the size that is mapped on its own, of which every 16th stays."""
    reset_peak()
    before = peak_bytes()
    kept = [torch.ones(25 * 1024) for _ in range(1600)][::16]
    reset_peak()
    assert peak_bytes() - before < 60 * MIB
    assert len(kept) == 100
