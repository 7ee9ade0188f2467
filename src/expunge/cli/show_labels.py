"""`expunge show-labels`: what Who's Harry Potter teaches in place of the forget text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.output import AsJson, print_columns, print_json, results_only


def show_labels(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run with the method whp.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Tokens to show.")] = 100,
    start: Annotated[int, typer.Option("--start", min=0, help="First token, counted through all blocks.")] = 0,
    changed: Annotated[bool, typer.Option("--changed", help="Only labels that are not what the base says.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the generic labels of a run.

    Each line is a token of the forget text, what the model says next before unlearning, and what it is taught to say.
    A label of (none) is left out of the loss: the token is inside an anchor, or stands before a repeated one.
    """
    with results_only():
        rows = _read(Path(folder), start, limit, changed)
    if as_json:
        print_json(rows)
        return
    header = ["block", "position", "token", "target_prediction", "generic_label"]
    print_columns(
        ["Block", "Position", "Token", "The base says", "Generic label"],
        [[*(_visible(row[name]) for name in header[:-1]), _visible(row["generic_label"]) or "(none)"] for row in rows],
    )


def _read(folder: Path, start: int, limit: int, changed: bool) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from expunge.errors import DataError

    place = folder / "prepared/labels.parquet"
    if not place.is_file():
        raise DataError(
            f"{folder} holds no generic labels (prepared/labels.parquet).",
            fix="Give the folder of a run with the method whp that has come as far as its unlearning.",
        )
    try:
        table = pq.read_table(place).slice(start)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place} cannot be read.", fix="Delete it and run the recipe again.") from error
    if changed:
        label = table["generic_label"]
        table = table.filter(pc.and_(pc.not_equal(label, ""), pc.not_equal(label, table["target_prediction"])))
    rows: list[dict[str, Any]] = table.slice(0, limit).to_pylist()
    return rows


def _visible(value: Any) -> str:
    """A cell in which line breaks can be seen."""
    return str(value).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
