"""Upload a run's checkpoint, model card and report to the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import ConfigError, DataError, NotHereError, one_line
from expunge.report.card import write_card
from expunge.report.html import write_report
from expunge.report.load import load_run

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REPORT = "report.html"


@dataclass(frozen=True)
class Upload:
    """The files of an upload."""

    repo: str
    files: dict[str, Path]
    """Path in the repository -> local file."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def stage(run: str | Path, repo: str, license: str | None = None) -> Upload:
    """Collect the files of a finished run, and write its model card and report again. Uploads nothing.

    Args:
        run: The run's folder.
        repo: Repository on the hub, such as 'name/model'.
        license: Identifier for the model card, such as 'mit'; None if it is unknown.

    Raises:
        DataError: The folder is no run, or the run is not finished.
        ConfigError: `repo` is not a repository's name.
    """
    if not _REPO.fullmatch(repo):
        raise ConfigError(
            [f"'{repo}' is not the name of a repository on the hub; give OWNER/NAME, such as jane/my-model"],
            source="the repository",
        )
    folder = Path(run)
    loaded = load_run(folder)
    checkpoint = folder / "checkpoint"
    if loaded.summary is None or not checkpoint.is_dir():
        raise DataError(f"the run {folder} is not finished.", fix="Repeat its command; it resumes where it stopped.")
    write_card(checkpoint, loaded, license)
    write_report([folder])
    files = {str(path.relative_to(checkpoint)): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    return Upload(repo, {**files, _REPORT: folder / _REPORT})


def push(upload: Upload, *, private: bool = True) -> str:
    """Upload the files in one commit, and create the repository if it does not exist.

    The access token is the one of `hf auth login`, or of the environment variable HF_TOKEN.

    Args:
        upload: What `stage` returned.
        private: Whether a new repository is private; an existing one stays as it is.

    Returns:
        The address of the commit.

    Raises:
        NotHereError: The hub cannot be reached, or refuses the upload.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise NotHereError("HF_HUB_OFFLINE is set, so nothing can be uploaded.", fix="Unset it and repeat the command.")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    operations = [CommitOperationAdd(name, path) for name, path in upload.files.items()]
    try:
        api.create_repo(upload.repo, private=private, exist_ok=True)
        commit = api.create_commit(upload.repo, operations, commit_message="Upload model, card and report of expunge")
    except LocalTokenNotFoundError as error:
        raise NotHereError("the hub needs an access token.", fix="Run: hf auth login") from error
    except (HfHubHTTPError, OSError) as error:
        raise NotHereError(
            f"the hub refused the upload to {upload.repo}: {one_line(error)}",
            fix="Check the name, and that the token may write to it (hf auth whoami).",
        ) from error
    return str(commit.commit_url)
