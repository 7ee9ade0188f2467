"""`expunge show-labels`: print the labels that Who's Harry Potter trains on instead of the forget text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import print_columns, print_json, results_only


def show_labels(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run with the method whp.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of tokens.")] = 100,
    start: Annotated[
        int, typer.Option("--start", min=0, help="Index of the first token, counted over all blocks.")
    ] = 0,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only labels that differ from the target's prediction.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the generic labels of a run.

    Each line is a token of the forget text, the target's prediction of the next token, and the label.
    A token with the label (none) is left out of the loss: it is inside an anchor, or before a repeated one.
    """
    with results_only():
        rows = _read(Path(folder), start, limit, changed)
    if as_json:
        print_json(rows)
        return
    header = ["block", "position", "token", "target_prediction", "generic_label"]
    print_columns(
        ["Block", "Position", "Token", "Prediction", "Generic label"],
        [[*(_visible(row[name]) for name in header[:-1]), _visible(row["generic_label"]) or "(none)"] for row in rows],
    )


def _read(folder: Path, start: int, limit: int, changed: bool) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from expunge.errors import DataError

    path = folder / "prepared/labels.parquet"
    if not path.is_file():
        raise DataError(
            f"{folder} has no generic labels (prepared/labels.parquet).",
            fix="Give the folder of a run with the method whp whose unlearning has started.",
        )
    try:
        table = pq.read_table(path).slice(start)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read.", fix="Delete it and run the recipe again.") from error
    if changed:
        label = table["generic_label"]
        table = table.filter(pc.and_(pc.not_equal(label, ""), pc.not_equal(label, table["target_prediction"])))
    rows: list[dict[str, Any]] = table.slice(0, limit).to_pylist()
    return rows


def _visible(value: Any) -> str:
    """Escape line breaks and tabs."""
    return str(value).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
