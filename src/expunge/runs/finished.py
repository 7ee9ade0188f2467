"""The models of a finished run, also after its folder was moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.config.recipe import Model
from expunge.errors import DataError
from expunge.records import Manifest
from expunge.rundir import read_record


@dataclass(frozen=True)
class RunModels:
    """The unlearned model of a run, its target and its retain model."""

    names: dict[str, str]
    """Role -> folder or hub id."""
    revisions: dict[str, str | None]
    """Role -> revision on the hub; models that the run has trained have none."""
    stored_retain_model: bool
    """Whether the run compared with a stored evaluation instead of a retain model."""


def manifest_of_run(folder: Path) -> Manifest:
    """Return the manifest of a finished run.

    Raises:
        DataError: The run is not finished, or was written by another version of expunge.
    """
    path = folder / "manifest.json"
    if not (folder / "checkpoint").is_dir() or not path.is_file():
        raise DataError(f"the run {folder} is not finished.", fix="Repeat its command; it resumes where it stopped.")
    return read_record(path, Manifest)


def models_of_run(folder: Path, config: Model) -> RunModels:
    """Return the models of a finished run.

    Args:
        folder: Folder of the run.
        config: The model section of its recipe.

    Raises:
        DataError: The run is not finished, or was written by another version of expunge.
    """
    recorded = manifest_of_run(folder).models
    paths = {role: _current_path(recorded.get(role, ""), folder) for role in ("target", "retain")}
    stored = paths["retain"].endswith(".json")
    controls = {role: path for role, path in paths.items() if path and not path.endswith(".json")}
    loaded = {
        "target": (config.name, config.revision),
        "retain": (config.retain_model, config.retain_model_revision),
    }
    return RunModels(
        names={"unlearned": str(folder / "checkpoint"), **controls},
        revisions={role: loaded[role][1] for role, path in controls.items() if path == loaded[role][0]},
        stored_retain_model=stored,
    )


def _current_path(name: str, folder: Path) -> str:
    """Return the path of a run's model; paths are recorded as seen from where the run was started."""
    moved = folder.parent / "shared" / Path(*Path(name).parts[-2:]) if "shared" in Path(name).parts else None
    return str(moved) if moved is not None and not Path(name).exists() and moved.is_dir() else name
