"""An example of each command, printed at the end of its help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "quickstart": ("expunge quickstart", "expunge quickstart method.name=simnpo"),
    "run": ("expunge run tofu-forget10-npo", "expunge run mine.yaml train.lr=1e-5 model.name=./target"),
    "sweep": ("expunge sweep tofu-forget10-npo-sweep --dry-run", "expunge sweep mine.yaml --executor ray --workers 4"),
    "check": ("expunge check mine.yaml data.forget.path=forget.jsonl",),
    "plan": ("expunge plan tofu-forget10-npo 'model.lora={rank: 8}'",),
    "init": ("expunge init mine.yaml", "expunge init mine.yaml --from tofu-forget10-npo"),
    "ls": ("expunge ls", "expunge ls methods"),
    "show": ("expunge show npo", "expunge show tofu-forget10-npo"),
    "show-labels": ("expunge show-labels runs/whp-books-0f390e140fab",),
    "evaluate": (
        "expunge evaluate ./model --benchmark tofu --retain-model ./retain-model",
        "expunge evaluate ./model --benchmark custom --data forget.jsonl",
    ),
    "audit": (
        "expunge audit runs/mine-0f390e140fab --preset standard",
        "expunge audit ./model quantize --data forget.jsonl --target ./target --retain-model ./retain-model",
    ),
    "score-log": ("expunge score-log full.json --retain-model retain90.json --set ds_size=300",),
    "import": (
        "expunge import saves/unlearn/my_task/evals/TOFU_EVAL.json --retain-model saves/eval/retain90/TOFU_EVAL.json",
        "expunge import saves/unlearn/my_task/.hydra/config.yaml --processes 2 --out mine.yaml",
    ),
    "report": ("expunge report runs/mine-0f390e140fab runs/other-a1b2c3d4e5f6 --out comparison.html",),
    "view": ("expunge view", "expunge view runs --port 0 --no-open"),
    "requests": ("expunge requests status ledger --measure",),
    "verify": ("expunge verify certificate.json --public-key company.pem",),
    "push": ("expunge push runs/mine-0f390e140fab jane/forgetful-model --license mit",),
    "schema": ("expunge schema > recipe.schema.json",),
    "doctor": ("expunge doctor --json",),
}


def epilog(command: str) -> str:
    """Return the examples of a command as the last lines of its help; empty if it has none."""
    lines = [f"  {line}" for line in EXAMPLES.get(command, ())]
    # The first line switches off wrapping.
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *lines]) if lines else ""
