"""Trainers, metrics and benchmarks of OpenUnlearning, their counterparts here, and what differs.

The page docs/openunlearning.md is generated from these tables, and `expunge import` converts with them. Statements
about OpenUnlearning refer to its version of December 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_RETAIN_TERM = {"gamma": "forget_weight", "alpha": "retain_weight", "retain_loss_type": "retain"}


@dataclass(frozen=True)
class Trainer:
    """A trainer and the method that corresponds to it."""

    method: str
    differs: str
    settings: Mapping[str, str] = field(default_factory=lambda: dict(_RETAIN_TERM))
    """Key of `trainer.method_args` -> setting of the method."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings with which the method behaves as the trainer does."""


TRAINERS: dict[str, Trainer] = {
    "GradAscent": Trainer(
        "gradascent",
        "Mean over the tokens of the effective batch; there the mean of the micro-batches' means, so that results "
        "depend on the number of GPUs.",
        {},
    ),
    "GradDiff": Trainer(
        "graddiff",
        "Retain KL at answer tokens (`kl_positions: labels`); there also at prompts and padding (`all`).",
    ),
    "NPO": Trainer(
        "npo",
        "The same loss. The reference's log-probabilities are computed once, so no second model stays in memory.",
        {"beta": "beta", **_RETAIN_TERM},
    ),
    "SimNPO": Trainer(
        "simnpo",
        "The same loss. Its `delta` is `gamma` here, with `gamma_form: code`, and its `gamma` is `forget_weight`.",
        {"beta": "beta", "delta": "gamma", **_RETAIN_TERM},
    ),
    "DPO": Trainer(
        "idkdpo",
        "`idkdpo` for refusals, `altpo` for alternative answers, which are created by the method; there by a script. "
        "One refusal per question for the full training; there a new one at each access. Refusals are packaged; there "
        "`data/idk.jsonl` is downloaded first.",
        {"beta": "beta", **_RETAIN_TERM},
    ),
    "RMU": Trainer(
        "rmu",
        "The squared distance of each row is divided by that row's length; there by the mean of 1/length over the "
        "batch, a broadcast of (B,) with (B, 1). The forward pass stops at the layer, and clipping sees trained "
        "weights only. The defaults are those of the official code (c 6.5, alpha 1200).",
        {"steering_coeff": "c", "alpha": "alpha"},
        {"positions": "labels"},
    ),
    "UNDIAL": Trainer(
        "undial",
        "Mean over answer tokens; there over prompt and padding too (`positions: all`), where a label of -100 also "
        "lowers the logit of token V - 100.",
        {"beta": "beta", **_RETAIN_TERM},
    ),
    "WGA": Trainer(
        "wga",
        "The same loss, without the frozen copy of the model that is loaded there and not used.",
        {"beta": "beta", **_RETAIN_TERM},
    ),
    "SatImp": Trainer(
        "satimp",
        "The same loss, without the unused frozen copy. Its configuration and its notes give opposite weights; the "
        "defaults here are those of the configuration (`forget_weight: 0.1`, `retain_weight: 1`).",
        {"beta1": "beta1", "beta2": "beta2", **_RETAIN_TERM},
    ),
    "CEU": Trainer("ceu", "The same loss.", {"ignore_first_n_answer_tokens": "skip_first"}),
    "PDU": Trainer(
        "pdu",
        "L_f at the positions that predict answer tokens; there one position later (`mask_shift: false`). One dual "
        "variable, updated per step; there one per process, updated per micro-batch, so `eta` here is `dual_step_size` "
        "times the number of micro-batches of a process.",
        {
            "gamma": "forget_weight",
            "alpha": "lambda_0",
            "retain_loss_eps": "epsilon",
            "dual_step_size": "eta",
            "dual_warmup_epochs": "dual_warmup_epochs",
        },
    ),
}


@dataclass(frozen=True)
class Metric:
    """A metric of OpenUnlearning, by the name of its handler."""

    here: str
    """Name of the metric here, in words of Markdown."""
    differs: str


METRICS: dict[str, Metric] = {
    "probability": Metric("`<set>/probability`", "The same: exp(mean log-probability per answer token, end included)."),
    "probability_w_options": Metric(
        "`real_authors/probability`, `world_facts/probability`",
        "The same up to 1e-10 in the denominator; also length-normalised, unlike TOFU's paper.",
    ),
    "rouge": Metric(
        "`<set>/rouge_l_recall` (TOFU), `knowmem_*` and `verbmem_forget` (MUSE)",
        "TOFU: the same, ROUGE-L recall of stems. MUSE: F1 without stems as in MUSE's code (`stem: true` for stems), "
        "and in percent.",
    ),
    "truth_ratio": Metric(
        "`<set>/truth_ratio`",
        "The same without 1e-10 in the denominator. `truth_ratio_mean: arithmetic` gives the paper's formula.",
    ),
    "ks_test": Metric(
        "`forget_quality`",
        "The same p-value, with an interval over people, and `forget/paired_quality`, a test that uses the pairs of "
        "rows. A retain model that knows the forget set is refused.",
    ),
    "hm_aggregate": Metric("`model_utility`", "The same harmonic mean of nine components, with an interval."),
    "exact_memorization": Metric(
        "`forget/exact_memorization`",
        "The same: the end of an answer is left out. There the last token is dropped even if it is no end token, as in "
        "plain text.",
    ),
    "extraction_strength": Metric(
        "`forget/extraction_strength`",
        "0 if no suffix is predicted; there 1/n, as if the last token were right.",
    ),
    "mia_loss": Metric("`membership/loss_auc`", "The same AUC, with an interval, and the TPR at 1% FPR beside it."),
    "mia_zlib": Metric("`membership/zlib_auc`", "As `mia_loss`."),
    "mia_reference": Metric(
        "`membership/reference_auc`", "The difference to the retain model's loss; there to any model's."
    ),
    "mia_min_k": Metric(
        "`membership/min_k_auc`", "As `mia_loss`, without the end of an answer; see `exact_memorization`."
    ),
    "mia_min_k_plus_plus": Metric("`membership/min_k_plus_auc`", "As `mia_min_k`."),
    "mia_gradnorm": Metric("`membership/gradient_norm_auc`", "The same mean over tensors; `gradient_norm: true`."),
    "privleak": Metric(
        "`membership/privleak` (TOFU), `privleak` (MUSE)",
        "The same formula. Without a retain model it is missing; there an AUC of 1/2 is assumed without notice.",
    ),
    "rel_diff": Metric("", "Shown as the target's and the retain model's values beside the unlearned model's."),
    "classifier_prob": Metric(
        "`<set>/repetition`, `<set>/distinct_2`",
        "No classifier of gibberish: it knows English prose only. Repetition and diversity need no model.",
    ),
}
"""Metrics by the name of their handler; lm-eval's are listed with the benchmarks."""

BENCHMARKS: dict[str, Metric] = {
    "TOFU": Metric(
        "`tofu`",
        "The same four sets and formulas. All rows by default; `ds_size: 300` cuts as TOFU's published logs do.",
    ),
    "MUSE": Metric(
        "`muse`",
        "Verbatim memorisation, knowledge and PrivLeak, in percent. Scalability and sustainability are several runs.",
    ),
    "WMDP": Metric(
        "`wmdp`, `mmlu`",
        "Through lm-eval in both. Batch size and chat template of the configuration have no effect there.",
    ),
}

_TRAINED_ON = {
    "Q_A_Prob": ("probability", "probability"),
    "Q_A_ROUGE": ("rouge_l_recall", "rouge"),
    "Truth_Ratio": ("truth_ratio", "truth_ratio"),
    "truth_ratio": ("truth_ratio", "truth_ratio"),
}
_GENERAL = {
    # The probability among the options; `Q_A_Prob` without options has no counterpart for these sets.
    "Q_A_Prob_normalised": ("probability", "probability_w_options"),
    "Q_A_ROUGE": ("rouge_l_recall", "rouge"),
    "Truth_Ratio": ("truth_ratio", "truth_ratio"),
}
_BY_SET = {
    "forget": ("forget", _TRAINED_ON),
    "retain": ("retain", _TRAINED_ON),
    "ra": ("real_authors", _GENERAL),
    "wf": ("world_facts", _GENERAL),
}
_TOFU = {
    "forget_quality": ("forget_quality", "ks_test"),
    "model_utility": ("model_utility", "hm_aggregate"),
    "exact_memorization": ("forget/exact_memorization", "exact_memorization"),
    "extraction_strength": ("forget/extraction_strength", "extraction_strength"),
    "retain_extraction_strength": ("retain/extraction_strength", "extraction_strength"),
    "mia_loss": ("membership/loss_auc", "mia_loss"),
    "mia_zlib": ("membership/zlib_auc", "mia_zlib"),
    "mia_reference": ("membership/reference_auc", "mia_reference"),
    "mia_min_k": ("membership/min_k_auc", "mia_min_k"),
    "mia_min_k_plus_plus": ("membership/min_k_plus_auc", "mia_min_k_plus_plus"),
    "mia_gradnorm": ("membership/gradient_norm_auc", "mia_gradnorm"),
    "privleak": ("membership/privleak", "privleak"),
    **{
        f"{short}_{key}": (f"{name}/{metric}", handler)
        for short, (name, keys) in _BY_SET.items()
        for key, (metric, handler) in keys.items()
    },
}
_MUSE = {
    "forget_knowmem_ROUGE": ("knowmem_forget", "rouge"),
    "retain_knowmem_ROUGE": ("knowmem_retain", "rouge"),
    "forget_verbmem_ROUGE": ("verbmem_forget", "rouge"),
    "privleak": ("privleak", "privleak"),
}
_LM_EVAL = {
    "wmdp_bio/acc": ("wmdp_bio", ""),
    "wmdp_cyber/acc": ("wmdp_cyber", ""),
    "wmdp_chem/acc": ("wmdp_chem", ""),
    "wmdp/acc": ("wmdp", ""),
    "mmlu/acc": ("mmlu", ""),
}
LOG_KEYS: dict[str, dict[str, tuple[str, str]]] = {"tofu": _TOFU, "muse": _MUSE, "wmdp": _LM_EVAL}
"""Benchmark -> key of a log -> (headline or metric here, handler there)."""
