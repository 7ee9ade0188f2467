"""Presets of audits."""

import pytest

from expunge import registry
from expunge.audits.shared.presets import PRESETS
from expunge.commands.audit import AuditConfig
from expunge.config.load import parse


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_of_a_preset_are_valid(preset):
    config = parse({"model": "m", "audits": PRESETS[preset]}, AuditConfig, source=preset)
    assert [audit.key for audit in config.audits] == [spec["name"] for spec in PRESETS[preset]]


def test_full_runs_every_audit():
    assert sorted(spec["name"] for spec in PRESETS["full"]) == registry.names("audit")
