"""Attack a checkpoint with a quantisation audit; the same attack runs on the target and on the retain model."""

from __future__ import annotations

from pathlib import Path

from tiny import write_model, write_rows

from expunge.cli.main import main as command

FOLDER = Path("example-audit")


def main() -> None:
    """Run the command that you would type."""
    FOLDER.mkdir(exist_ok=True)
    rows = write_rows(FOLDER)  # your files
    unlearned, target, retain_model = (write_model(FOLDER / name) for name in ("unlearned", "target", "retain-model"))
    words = ["audit", unlearned, "quantize", "--data", rows["forget"], "--target", target, "--out", FOLDER / "audit"]
    code = command([*map(str, words), "--retain-model", str(retain_model), "--set", "precisions=[int8]"])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
