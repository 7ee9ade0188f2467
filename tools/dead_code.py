"""Report code in src/ that is never used; `make check` runs this.

vulture lists the candidates. Uses in src/, perf/, tools/ and docs/examples/ count, uses in tests/ do not: code that
only a test calls is dead. Some code is used without being named in Python, and is not reported:

- methods, benchmarks and audits, which the registry finds by file name;
- validators and metrics, which a decorator registers;
- fields of records, which are written to disk;
- attributes that the report's templates read;
- parameters, which an interface can require;
- the names in ALLOWED.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vulture import Vulture
from vulture.core import Item

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "expunge"
USES = ["src", "perf", "tools", "docs/examples"]
MEMBERS = [PACKAGE / name for name in ("methods", "benchmarks", "audits")]
RECORDS = PACKAGE / "records"
DECORATORS = ["@model_validator", "@field_validator", "@metric"]

ALLOWED = {
    "called or read by Python": ["__class__", "__getattr__", "__dir__"],
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
        "optimizer_cls_and_kwargs",
        "should_save",
        "should_training_stop",
    ],
    "called or read by accelerate": ["_prepare_fsdp2", "distributed_type", "fsdp_plugin"],
    "called by urllib": ["http_open", "https_open"],
    "called by lm-eval": ["add_partial", "get_model_info"],
    "read by peft": ["inference_mode"],
    "read by tokenizers": ["pre_tokenizer"],
    "read by transformers": ["is_quantized"],
    "called by user-defined audits": ["hooked_session"],
    "written to disk, and checked by read_record": ["schema_version"],
    "written by `expunge plan --json`": ["flops_per_step"],
}
"""Who uses a name that no Python code of ours uses -> the names."""


def is_used(item: Item, names: set[str]) -> bool:
    """Return whether code that vulture reports as unused is used after all."""
    is_member = item.typ == "class" and any(item.filename.is_relative_to(folder) for folder in MEMBERS)
    is_field = item.typ == "variable" and item.filename.is_relative_to(RECORDS)
    is_parameter = item.typ == "variable" and item.confidence == 100
    return item.name in names or is_member or is_field or is_parameter


def main() -> int:
    """Print unused code; return 1 if there is any."""
    search = Vulture(ignore_decorators=DECORATORS)
    search.scavenge([ROOT / path for path in USES])
    names = {name for group in ALLOWED.values() for name in group}
    for template in PACKAGE.rglob("*.j2"):
        names |= set(re.findall(r"\.(\w+)", template.read_text(encoding="utf-8")))
    candidates = search.get_unused_code(min_confidence=60)
    unused = [item for item in candidates if item.filename.is_relative_to(PACKAGE) and not is_used(item, names)]
    for item in unused:
        print(f"{item.filename.relative_to(ROOT)}:{item.first_lineno}: unused {item.typ} '{item.name}'")
    return 1 if unused else 0


if __name__ == "__main__":
    sys.exit(main())
