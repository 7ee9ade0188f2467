"""Measurement of peak memory."""

import pytest
import torch

from expunge.modeling.peak_memory import CLEAR, peak_bytes, reset_peak, resident_peak

MIB = 2**20

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, its memory is measured instead")


def test_peak_includes_freed_memory():
    """160 MiB are allocated and freed; they count towards the peak."""
    reset_peak()
    before = peak_bytes()
    block = torch.ones(40 * MIB)
    del block
    assert peak_bytes() - before > 120 * MIB


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux can reset the peak")
def test_reset_discards_the_old_peak():
    block = torch.ones(40 * MIB)
    del block
    high = peak_bytes()
    reset_peak()
    assert high - peak_bytes() > 120 * MIB


def test_getrusage_is_used_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr("expunge.modeling.peak_memory.CLEAR", tmp_path / "missing" / "file")
    reset_peak()
    monkeypatch.setattr("expunge.modeling.peak_memory.STATUS", tmp_path / "missing")
    assert resident_peak() > 50 * MIB


@pytest.mark.skipif(not CLEAR.exists(), reason="only glibc holds freed blocks")
def test_freed_blocks_are_returned_to_the_system():
    """1,600 blocks of 100 KiB, too small for a mapping of their own, of which every 16th stays allocated."""
    reset_peak()
    before = peak_bytes()
    remaining = [torch.ones(25 * 1024) for _ in range(1600)][::16]
    reset_peak()
    assert peak_bytes() - before < 60 * MIB
    assert len(remaining) == 100
