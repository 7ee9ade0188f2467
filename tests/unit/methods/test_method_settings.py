"""Defaults equal the published settings and load back, and settings without effect are refused."""

import pytest
from pydantic import ValidationError

from expunge import registry

DEFAULTS = {
    "npo": {"beta": 0.1, "forget_weight": 1.0, "retain_weight": 1.0},
    "simnpo": {"beta": 4.5, "gamma": 0.0},
    "idkdpo": {"beta": 0.1, "two_over_beta": True},
    "altpo": {"beta": 0.1, "num_alternates": 5, "temperature": 1.0, "max_new_tokens": 200},
    "wga": {"beta": 1.0, "forget_weight": 1.0, "retain_weight": 1.0},
    "satimp": {"beta1": 5.0, "beta2": 1.0, "forget_weight": 0.1, "retain_weight": 1.0},
    "ceu": {"skip_first": True},
    "undial": {"beta": 10.0, "retain_weight": 0.0, "positions": "labels"},
    "pdu": {"epsilon": 0.3, "lambda_0": 100.0, "eta": 5.0, "dual_warmup_epochs": 5.0, "mask_shift": True},
    "gru": {"kappa": 0.8, "beta": 0.1, "forget": "nll"},
    "klmin": {"retain": "kl", "kl_positions": "labels"},
    "graddiff": {"forget_weight": 1.0, "retain_weight": 1.0, "retain": "nll"},
    "idksft": {},
    "ihl": {"retain_weight": 1.0},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_papers_and_load_back(name):
    cls = registry.get("method", name)
    method = cls()
    assert method.name == name
    for key, value in DEFAULTS[name].items():
        assert getattr(method, key) == value, key
    settings = method.spec()
    assert settings.pop("name") == name
    assert cls.model_validate(settings) == method
    assert "arXiv:" in cls.paper


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("npo", {"retain_weight": 0, "retain": "kl"}, "no effect with retain_weight 0"),
        ("undial", {"retain": "kl"}, "no effect with retain_weight 0"),
        ("idkdpo", {"kl_positions": "all"}, "no effect unless retain is 'kl'"),
        ("klmin", {"retain_weight": 0, "kl_positions": "all"}, "no effect with retain_weight 0"),
        ("klmin", {"retain": "nll"}, "'kl'"),
        ("simnpo", {"gamma_form": "paper"}, "no effect with gamma 0"),
        ("gru", {"beta": 0.5}, "no effect unless forget is 'npo'"),
        ("pdu", {"eta": 0, "dual_warmup_epochs": 2}, "no effect with eta 0"),
        ("ceu", {"retain_weight": 1}, "Extra inputs"),
        ("wga", {"beta": -1}, "greater than 0"),
        ("altpo", {"temperature": 0}, "greater than 0"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ValidationError, match=message):
        registry.get("method", name).model_validate(settings)


def test_undial_needs_the_reference_and_retain_rows_only_with_a_weight():
    undial = registry.get("method", "undial")
    assert undial().needs().sets == ("forget",)
    assert undial(retain_weight=1).needs().sets == ("forget", "retain")
    assert undial().needs().reference


@pytest.mark.parametrize("name", ["idkdpo", "altpo"])
def test_preferred_rows_are_aligned_with_forget_rows(name):
    needs = registry.get("method", name)(retain_weight=0).needs()
    assert needs.sets == ("forget", "preferred")
    assert needs.aligned == needs.created == ("preferred",)
    assert needs.reference_logp == ("forget", "preferred")
