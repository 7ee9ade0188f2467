"""`expunge push`: upload a run's checkpoint, model card and report to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.output import print_columns
from expunge.console import print_result


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the hub, such as jane/my-model.")],
    license: Annotated[str | None, typer.Option(help="License for the model card, such as mit.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public (default: private).")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it, only print what would be uploaded.")] = False,
) -> None:
    """Upload a run's checkpoint, model card and report to the hub."""
    from expunge.commands import push

    upload = push.stage(run, repo, license)
    if yes:
        print_result(push.push(upload, private=not public))
        return
    print_columns(["File", "Bytes"], [[name, f"{path.stat().st_size:,}"] for name, path in upload.files.items()])
    print_result(
        f"{len(upload.files)} files, {upload.num_bytes:,} bytes, for {'public' if public else 'private'} {repo}. "
        "The report contains texts of the forget set, unless the data is marked as sensitive. "
        "Nothing was uploaded; add --yes to upload."
    )
