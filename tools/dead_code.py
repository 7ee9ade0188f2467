"""Report code in src/ that is never used; `make check` runs this.

vulture lists the candidates. Uses in src/, perf/, tools/ and docs/examples/ count, uses in tests/ do not: code that
only a test calls is dead. Some code is used without being named, and is not reported:

- methods, benchmarks and audits, which the registry finds by file name;
- fields of records, which are written to disk;
- validators and metrics, which a decorator registers;
- the names in ALLOWED.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "expunge"
USES = ["src", "perf", "tools", "docs/examples"]
MEMBERS = [PACKAGE / name for name in ("methods", "benchmarks", "audits")]
RECORDS = PACKAGE / "records"
DECORATORS = ["@model_validator", "@field_validator", "@metric"]

ALLOWED = {
    "called by Python": ["__getattr__", "__dir__", "frame"],
    "called by pydantic": ["model_post_init"],
    "called or read by transformers.Trainer": [
        "_n_gpu",
        "compute_loss",
        "floating_point_ops",
        "get_train_dataloader",
        "model_accepts_loss_kwargs",
        "on_log",
        "on_save",
        "on_step_end",
        "on_train_begin",
        "return_outputs",
        "should_save",
        "should_training_stop",
    ],
    "called or read by accelerate": ["_prepare_fsdp2", "distributed_type", "fsdp_plugin"],
    "called or read by lm-eval": [
        "add_partial",
        "attr",
        "disable_tqdm",
        "get_model_info",
        "override_bs",
        "req",
        "res",
        "storage",
    ],
    "read by tokenizers": ["pre_tokenizer"],
    "written by `expunge plan --json`": ["flops_per_step"],
    "read by the report's templates": ["completions", "num_transcripts", "probability_before", "transcripts"],
}
"""Why a name is used although no Python code of ours names it -> the names."""


def main() -> int:
    """Print unused code; return 1 if there is any."""
    search = Vulture(ignore_decorators=DECORATORS)
    search.scavenge([ROOT / path for path in USES])
    allowed = {name for names in ALLOWED.values() for name in names}
    unused = [
        item
        for item in search.get_unused_code(min_confidence=60)
        if item.filename.is_relative_to(PACKAGE)
        and item.name not in allowed
        and not (item.typ == "class" and any(item.filename.is_relative_to(folder) for folder in MEMBERS))
        and not (item.typ == "variable" and item.filename.is_relative_to(RECORDS))
    ]
    for item in unused:
        print(f"{item.filename.relative_to(ROOT)}:{item.first_lineno}: unused {item.typ} '{item.name}'")
    return 1 if unused else 0


if __name__ == "__main__":
    sys.exit(main())
