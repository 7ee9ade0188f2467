"""Import a file or folder of OpenUnlearning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from expunge.commands.openunlearning.conversion import ImportedRecipe, import_config
from expunge.commands.openunlearning.logs import ImportedLog, import_log, is_log
from expunge.errors import DataError, UserError
from expunge.records import Record
from expunge.rundir import write_atomic


class Imported(Record):
    """Everything that was read."""

    logs: list[ImportedLog] = Field(default_factory=list)
    recipe: ImportedRecipe | None = None
    configs: list[str] = Field(default_factory=list)
    """Configurations of runs in the folder, which are not converted with it."""


def import_path(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    retain_model: Path | None = None,
    processes: int = 1,
    out: Path | None = None,
) -> Imported:
    """Read logs and configurations.

    Args:
        path: A log, a configuration, or a folder, which is searched for logs. Of a SUMMARY and an EVAL of the same
            evaluation, the EVAL is read, which has all its values.
        overrides: Values for a configuration.
        retain_model: Log of the retain model, for logs of TOFU.
        processes: GPUs of the configured training.
        out: File for the recipe.

    Raises:
        DataError: Nothing was found, or a log is damaged.
        ConfigError: A configuration cannot be converted.
        UserError: An option has no effect on this input, or `out` exists.
    """
    is_config = path.suffix in (".yaml", ".yml")
    dead = {"--retain-model": is_config and retain_model is not None}
    dead |= {"KEY=VALUE": not is_config and bool(overrides), "--out": not is_config and out is not None}
    dead |= {"--processes": not is_config and processes != 1}
    if without_effect := [name for name, has_none in dead.items() if has_none]:
        kind = "a configuration" if is_config else "logs"
        raise UserError(f"{without_effect[0]} has no effect on {kind}.", fix="Leave it out.")
    if not path.exists():
        raise DataError(f"{path} does not exist.", fix="Give a log, a configuration or a folder of OpenUnlearning.")
    if is_config:
        if out is not None and out.exists():
            raise UserError(f"{out} already exists.", fix="Give another path.")
        recipe = import_config(path, overrides, processes=processes)
        if out is not None:
            write_atomic(out, recipe.text(str(path)))
        return Imported(recipe=recipe)
    if path.is_file():
        return Imported(logs=[import_log(path, retain_model)])
    files = [file for file in sorted(path.rglob("*.json")) if is_log(file) and not _has_rows_beside(file)]
    configs = [str(file) for file in sorted(path.rglob("config.yaml")) if file.parent.name == ".hydra"]
    if not files and not configs:
        raise DataError(
            f"{path} has no *_EVAL.json, *_SUMMARY.json or .hydra/config.yaml.",
            fix="Give a folder that OpenUnlearning wrote, such as saves/eval/TASK.",
        )
    # Only an evaluation of TOFU with rows can be compared with the retain model's.
    logs = [import_log(file, retain_model if file.name == "TOFU_EVAL.json" else None) for file in files]
    return Imported(logs=logs, configs=configs)


def _has_rows_beside(path: Path) -> bool:
    """Return whether this is a SUMMARY whose EVAL is in the same folder."""
    return path.name.endswith("_SUMMARY.json") and path.with_name(path.name.replace("_SUMMARY", "_EVAL")).exists()
