"""A killed audit resumes: the same records, and no finished stage is repeated."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

KILLER = '''
import os, signal
from pathlib import Path

from expunge.audits import Attempt, Audit, Cost


def die_at(moment):
    if os.environ.get("DIE_AT") == moment:
        os.kill(os.getpid(), signal.SIGKILL)


class Killer(Audit):
    """An attack that kills its own process at a chosen moment, and lists its finished stages."""

    def stages(self, sets):
        return ["before", "one", "two"]

    def attack(self, arm, stage):
        die_at(f"{arm.role}-{stage}-start")
        length = {"before": 1, "one": 2, "two": 3}[stage]
        rows = [
            {"id": row.id, "group": row.group, "question": row.question, "score": min(1.0, 0.1 * length)}
            for row in arm.sets.forget
        ]
        die_at(f"{arm.role}-{stage}-end")
        with open(os.environ["FINISHED"], "a") as file:
            print(arm.role, stage, file=file)
        return [Attempt(stage, rows, cost=Cost(passes=length, seconds=1.0))]

    def findings(self, attempts, rule):
        die_at("findings")
        return super().findings(attempts, rule)
'''
MOMENTS = ["unlearned-before-start", "unlearned-two-end", "retain-one-start", "findings"]


def command(model: Path, data: Path, out: Path) -> list[str]:
    words = [model, data.parent / "killer.py", "quantize", "--data", data, "--retain-model", model, "--out", out]
    return [sys.executable, "-m", "expunge", "audit", *map(str, words)]


def records(out: Path) -> dict[str, object]:
    """All records without seconds, and the transcripts."""

    def without_seconds(value):
        if isinstance(value, dict):
            return {key: without_seconds(each) for key, each in value.items() if key != "seconds"}
        return [without_seconds(each) for each in value] if isinstance(value, list) else value

    found = {path.name: without_seconds(json.loads(path.read_text())) for path in (out / "audits").glob("*.json")}
    found["battery"] = without_seconds(json.loads((out / "battery.json").read_text()))
    return found | {
        path.name: pyarrow.parquet.read_table(path).to_pylist() for path in (out / "samples").glob("*.parquet")
    }


@pytest.mark.slow
def test_killed_at_every_stage(tmp_path, tiny_model, monkeypatch):
    data = tmp_path / "forget.jsonl"
    rows = [{"id": str(i), "question": f"Where was she born {i}?", "answer": "In Bern."} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "killer.py").write_text(KILLER)

    def run(out: Path, moment: str = "") -> int:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "DIE_AT": moment, "FINISHED": str(tmp_path / f"{out.name}.txt")}
        done = subprocess.run(command(tiny_model, data, out), env=env, capture_output=True, text=True, check=False)
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        return done.returncode

    assert run(tmp_path / "whole") == 0
    for moment in MOMENTS:
        assert run(tmp_path / "killed", moment) == -signal.SIGKILL
        assert not (tmp_path / "killed/battery.json").exists()
    assert run(tmp_path / "killed") == 0
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    finished = (tmp_path / "killed.txt").read_text().splitlines()
    # The stage that was killed at its end was not stored, and had not written its line yet.
    assert sorted(finished) == sorted(
        f"{arm} {stage}" for arm in ("unlearned", "retain") for stage in ("before", "one", "two")
    )
