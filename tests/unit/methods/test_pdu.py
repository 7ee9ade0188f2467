"""PDU's dual variable: by hand, warm-up, lower bound, saved state, and independence of micro-batches."""

import pytest
from tiny_steps import make_step, trained_pair

from expunge.errors import IncompatibleError
from expunge.methods.pdu import PDU


def dual_after(objective, *retain_nll):
    for value in retain_nll:
        objective.after_step({"retain_nll": value})
    return objective.dual


def test_the_dual_variable_by_hand():
    """lambda 10, eta 5, epsilon 0.3: 10 + 5 * (0.5 - 0.3) = 11, then 11 + 5 * (0.1 - 0.3) = 10."""
    objective = PDU(lambda_0=10, eta=5, epsilon=0.3, dual_warmup_epochs=0).objective(20, 2)
    assert dual_after(objective, 0.5) == pytest.approx(11)
    assert dual_after(objective, 0.1) == pytest.approx(10)


def test_it_is_constant_during_warm_up():
    """1.5 epochs of 2 steps: no update in three steps, the first one in the fourth."""
    objective = PDU(lambda_0=10, eta=5, epsilon=0.3, dual_warmup_epochs=1.5).objective(20, 2)
    assert dual_after(objective, 9.0, 9.0, 9.0) == 10
    assert dual_after(objective, 0.5) == pytest.approx(11)


@pytest.mark.parametrize(("steps", "moves"), [(6, False), (7, True)])
def test_a_warm_up_not_shorter_than_the_training_is_refused(steps, moves):
    """Three epochs of 2 steps: the seventh step is the first that updates the variable. With eta 0 none does."""
    method = PDU(dual_warmup_epochs=3)
    if moves:
        assert dual_after(method.objective(steps, 2), *[9.0] * steps) > method.lambda_0
    else:
        with pytest.raises(
            IncompatibleError, match=r"dual_warmup_epochs 3 \(6 steps\) is not shorter than the training \(6 steps\)"
        ):
            method.objective(steps, 2)
        assert dual_after(PDU(eta=0).objective(steps, 2), 9.0) == method.lambda_0


def test_it_is_never_negative():
    objective = PDU(lambda_0=1, eta=5, epsilon=1.0, dual_warmup_epochs=0).objective(20, 2)
    assert dual_after(objective, 0.0) == 0
    assert dual_after(objective, 0.0, 0.0) == 0
    assert dual_after(objective, 1.2) == pytest.approx(1.0)  # and comes back at once


def test_a_restored_objective_continues_like_the_saved_one():
    method = PDU(lambda_0=10, dual_warmup_epochs=1)
    whole, saved = method.objective(20, 2), method.objective(20, 2)
    dual_after(whole, 0.5, 0.5, 0.7, 0.9)
    dual_after(saved, 0.5, 0.5, 0.7)
    restored = method.objective(20, 2)
    restored.load_state(saved.state())
    assert dual_after(restored, 0.9) == whole.dual != 10


def test_the_current_dual_variable_weights_the_retain_term():
    model, start = trained_pair()
    method = PDU(lambda_0=2, epsilon=0.25, dual_warmup_epochs=0)
    objective = method.objective(20, 2)
    before = objective(make_step(method, model, start))
    nll = float(before.metrics["retain_nll"])
    assert float(before.terms["retain"].detach()) == pytest.approx(2 * (nll - 0.25))
    objective.after_step({"retain_nll": nll})
    after = objective(make_step(method, model, start))
    assert float(after.terms["retain"].detach()) == pytest.approx((2 + 5 * (nll - 0.25)) * (nll - 0.25))
    assert float(after.metrics["lambda"]) == pytest.approx(objective.dual)


def test_logged_metrics_add_up_over_micro_batches():
    model, start = trained_pair()
    method = PDU(lambda_0=7)
    objective = method.objective(20, 2)
    whole = objective(make_step(method, model, start)).metrics
    parts = [objective(make_step(method, model, start, part=p)).metrics for p in (slice(0, 1), slice(1, 3))]
    for name in ("retain_nll", "lambda"):
        assert sum(float(part[name]) for part in parts) == pytest.approx(float(whole[name]), rel=1e-5)
