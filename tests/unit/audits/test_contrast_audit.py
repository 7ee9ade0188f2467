"""The audit `contrast`: which models are paired, and what is measured."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from expunge.audits import contrast
from expunge.audits.base import BEFORE
from expunge.audits.contrast import Contrast
from expunge.audits.shared.findings import Rule
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError

ROWS = RowSet(
    "forget", tuple(Row(f"{i}", f"Q{i}?", f"alpha{i} beta{i} gamma{i} delta{i}", f"person {i // 2}") for i in range(12))
)
SETS = Sets("made", ROWS, None)


class FakeArm:
    def __init__(self, role, greedy):
        self.role, self.sets, self._greedy = role, SETS, greedy

    def session(self):
        def answers(requests):
            return {r.key: " ".join(ROWS.rows[r.index].answer.split()[: self._greedy[self.role]]) for r in requests}

        return SimpleNamespace(role=self.role, generate=answers)

    @contextmanager
    def other(self, role):
        yield FakeArm(role, self._greedy)


@pytest.fixture
def paired(monkeypatch):
    """Contrast reveals three words with the unlearned model and one with the retain model."""
    calls = []

    def fake(knowing, other, requests, *, gamma, cutoff):
        calls.append((knowing.role, other.role, gamma, cutoff))
        count = {"unlearned": 3, "retain": 1, "base": 0}[other.role]
        return {r.key: " ".join(ROWS.rows[r.index].answer.split()[:count]) for r in requests if r.index}

    monkeypatch.setattr(contrast, "generate_contrast", fake)
    return calls


def test_every_model_is_paired_with_the_target(paired):
    audit = Contrast(gammas=[1.5, 2.0], cutoff=4.0)
    greedy = {"unlearned": 0, "retain": 0, "target": 4, "base": 0}
    found = {
        role: [each for stage in audit.stages(SETS) for each in audit.attack(FakeArm(role, greedy), stage)]
        for role in greedy
    }
    pairs = [("target", role, gamma, 4.0) for role in ("unlearned", "retain", "base") for gamma in (1.5, 2.0)]
    assert paired == pairs
    assert [each.name for each in found["target"]] == [BEFORE, "gamma_1.5", "gamma_2"]
    assert {row["score"] for each in found["target"] for row in each.rows} == {1.0}
    last = audit.findings(found, Rule()).findings[-1]
    assert last.excess.point == pytest.approx(0.5)  # 3 words of 4 minus 1 of 4
    assert last.effect.point == pytest.approx(0.5)
    assert last.residual.point == pytest.approx(2 / 3)  # (.75 - .25) / (1 - .25)
    assert last.excess.n == 11  # the prompt of row 0 is too long
    assert last.cost.passes == 2


def test_settings_and_data():
    with pytest.raises(ValidationError):
        Contrast(gammas=[0.5])
    assert Contrast().stages(SETS) == [BEFORE, "gamma_2"]
    assert Contrast.needs == ("target",)
    assert Contrast(limit=6).workload(SETS).passes == 1.5
    text = Sets("text", RowSet("forget", (Row("a", "", "Plain text.", "a"),)), None)
    with pytest.raises(DataError, match="no questions"):
        Contrast().stages(text)
