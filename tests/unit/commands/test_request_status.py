"""Whether a request is still forgotten, and when a retrain is due."""

import pytest

from expunge.commands.requests.status import remaining_knowledge, retrain_reasons
from expunge.records import Value
from expunge.records.requests import Remaining, RetrainRule

RULE = RetrainRule(utility_share=0.9, remaining_share=0.25)


def remaining(current: float | None, first: float | None, retain: float | None = None) -> Remaining:
    named = {"current": current, "first": first, **({} if retain is None else {"retain": retain})}
    values = {name: Value.missing("rows") if point is None else Value(point=point) for name, point in named.items()}
    return remaining_knowledge(values, RULE)


@pytest.mark.parametrize(
    ("current", "first", "retain", "share", "forgotten"),
    [
        # (0.3 - 0.1) / (0.9 - 0.1) = 0.25: at the limit it still counts as forgotten.
        (0.3, 0.9, 0.1, 0.25, True),
        (0.31, 0.9, 0.1, 0.2625, False),
        (0.9, 0.9, 0.1, 1.0, False),
        # Less than the retain model knows.
        (0.02, 0.9, 0.1, -0.1, True),
        # Without a retain model, the floor is 0: 0.3 / 0.9.
        (0.3, 0.9, None, 1 / 3, False),
    ],
)
def test_share_of_knowledge_that_is_left(current, first, retain, share, forgotten):
    result = remaining(current, first, retain)
    assert result.remaining.point == pytest.approx(share)
    assert result.forgotten is forgotten


@pytest.mark.parametrize(
    ("current", "first", "retain", "needs"),
    [
        (0.02, 0.04, None, "a first model that knew the rows; its knowledge was 0.0400"),
        (0.5, 0.5, 0.48, "its knowledge was 0.500, and the retain model's is 0.480"),
        (None, 0.9, 0.1, "rows that fit into the model's context"),
        (0.1, None, 0.1, "rows that fit into the model's context"),
    ],
)
def test_what_cannot_be_concluded_has_a_reason_and_no_number(current, first, retain, needs):
    result = remaining(current, first, retain)
    assert result.forgotten is None
    assert result.remaining.point is None
    assert needs in result.remaining.needs


def reasons(
    utility: float | None, before: float, num_applied: int = 3, rule: RetrainRule = RULE, **requests
) -> list[str]:
    now = Value.missing("retained rows") if utility is None else Value(point=utility)
    return retrain_reasons(requests, now, Value(point=before), num_applied, rule)


def test_when_a_retrain_is_due():
    forgotten, back, unknown = remaining(0.1, 0.9, 0.1), remaining(0.5, 0.9, 0.1), remaining(0.0, 0.0)
    assert reasons(0.9, 1.0, a=forgotten, b=unknown) == []  # at the limit
    assert reasons(None, 0.8, a=forgotten) == []
    assert reasons(0.7, 0.8, a=forgotten) == ["utility is 0.700, below 90% of the first model's 0.800"]
    assert reasons(0.8, 0.8, a=forgotten, b=back) == [
        "request 'b' is not forgotten: 50% of the knowledge is there, above 25%"
    ]
    limited = RULE.model_copy(update={"max_requests": 3})
    assert reasons(0.8, 0.8, 2, limited, a=forgotten) == []
    assert reasons(0.8, 0.8, 3, limited, a=forgotten) == ["3 requests were unlearned, and the limit is 3"]
    assert len(reasons(0.1, 0.8, 3, limited, a=back)) == 3
