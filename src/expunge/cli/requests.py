"""`expunge requests`: deletion requests that keep coming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.options import AsJson, Overrides, RecipeName, work_offline_if_needed
from expunge.cli.output import print_columns, print_json, results_only
from expunge.cli.run import hub_names
from expunge.console import print_result
from expunge.errors import Interrupted

if TYPE_CHECKING:
    from expunge.commands.requests.status import LedgerStatus, RequestState
    from expunge.records.requests import Measured

app = typer.Typer(
    help="Keep a ledger of deletion requests, unlearn them one by one, and certify each.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
LedgerFolder = Annotated[str, typer.Argument(metavar="LEDGER", help="Folder of the ledger.")]


@app.command()
def init(
    ledger: LedgerFolder,
    recipe: RecipeName,
    overrides: Overrides = None,
    other_data: Annotated[
        bool,
        typer.Option("--other-data", help="The model was trained on more than the recipe's sets: accept other rows."),
    ] = False,
    utility_share: Annotated[
        float, typer.Option(help="A retrain is due below this share of the first model's utility.")
    ] = 0.9,
    remaining_share: Annotated[
        float, typer.Option(help="A request counts as forgotten up to this share of the first model's knowledge.")
    ] = 0.2,
    max_requests: Annotated[int | None, typer.Option(help="A retrain is due after this many requests.")] = None,
    utility_rows: Annotated[int, typer.Option(min=1, help="Retained rows on which utility is measured.")] = 400,
) -> None:
    """Open a ledger for one model.

    The recipe names the first model, the data that it was trained on, and the method that unlearns each request.
    """
    from expunge.config.load import load_recipe, parse
    from expunge.records.requests import RetrainRule

    rule = {"utility_share": utility_share, "remaining_share": remaining_share, "max_requests": max_requests}
    retrain = parse(rule, RetrainRule, source="the options")
    loaded = load_recipe(recipe, overrides or [])
    work_offline_if_needed(*hub_names(loaded))
    from expunge.commands.requests import init

    with results_only():
        init.init(ledger, loaded, knows_training_data=not other_data, rule=retrain, utility_rows=utility_rows)
    print_result(
        f"Opened {ledger} for the model {loaded.model.name} and the method {loaded.method.name}. "
        f"Next: expunge requests add {ledger} --id ID --person NAME"
    )


@app.command()
def add(
    ledger: LedgerFolder,
    request: Annotated[str, typer.Option("--id", metavar="ID", help="Id of the request, such as a case number.")],
    persons: Annotated[
        list[str] | None, typer.Option("--person", metavar="NAME", help="Person to forget; can be repeated.")
    ] = None,
    rows: Annotated[str | None, typer.Option(metavar="FILE", help="File of rows to forget, instead.")] = None,
    date: Annotated[str | None, typer.Option(help="Day of the request, YYYY-MM-DD (default: today).")] = None,
) -> None:
    """Add a request. Its texts are kept until `purge`; the ledger has only salted hashes."""
    _work_offline_if_needed(ledger)
    from expunge.commands.requests import add

    with results_only():
        added = add.add(ledger, request, persons=persons or [], rows=rows, date=date)
    print_result(f"Added request {request}: {len(added.request.rows)} rows.")
    for person, count in added.mentions.items():
        print_result(f"{count} rows about others mention {person} and stay; to remove them, add them with --rows.")


@app.command()
def apply(
    ledger: LedgerFolder,
    limit: Annotated[int | None, typer.Option(min=1, help="Unlearn at most this many requests.")] = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn the pending requests, each from the model that the previous one left."""
    _work_offline_if_needed(ledger)
    from expunge.commands.requests import apply

    with results_only():
        try:
            done = apply.apply(ledger, limit)
        except Interrupted as error:
            raise Interrupted(f"in {ledger}") from error
    if as_json:
        print_json(done)
    elif done:
        print_columns(["Request", "Verdict"], [[name, summary.verdict.sentence] for name, summary in done.items()])
    else:
        print_result("Nothing to do: no request is pending.")


@app.command()
def status(
    ledger: LedgerFolder,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all past requests and utility on the current model first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which requests are still forgotten, what utility is left, and whether a retrain is due."""
    _work_offline_if_needed(ledger)
    from expunge.commands.requests import status

    with results_only():
        try:
            state = status.status(ledger, measure=measure)
        except Interrupted as error:
            raise Interrupted("lost, because a measurement is recorded as a whole") from error
    print_json({**state.model_dump(mode="json"), "due": state.due}) if as_json else _print_status(state)


@app.command()
def certificate(
    ledger: LedgerFolder,
    request: Annotated[str, typer.Argument(metavar="ID", help="Id of a request that was unlearned.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="File to write.")],
    key: Annotated[
        str | None, typer.Option(metavar="PEM", help="Ed25519 private key to sign with (extra 'sign').")
    ] = None,
) -> None:
    """Write the certificate of a request: what was removed, how measured, and the hashes of everything involved."""
    from expunge.commands.requests import certificate

    with results_only():
        written = certificate.certify(ledger, request, out, key)
    signed = "signed" if key is not None else "not signed"
    print_result(f"Certificate of request {request} ({written.removed['num_rows']} rows, {signed}): {out}")


@app.command()
def purge(
    ledger: LedgerFolder,
    requests: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Requests (default: all that were unlearned).")
    ] = None,
) -> None:
    """Delete the texts of unlearned requests from the ledger and its runs, and keep salted hashes."""
    from expunge.commands.requests import purge

    with results_only():
        done = purge.purge(ledger, requests or [])
    if done.ids:
        print_result(f"Purged {', '.join(done.ids)}: {done.num_texts} texts were deleted or replaced by hashes.")
        print_result("The training data, backups, and copies of the runs elsewhere still have them.")
    else:
        print_result("Nothing to do: the texts of these requests were deleted earlier.")


def _work_offline_if_needed(folder: str) -> None:
    """Check that the hub is reachable if the ledger's recipe names a model or data that is not on this machine."""
    from expunge.commands.requests.ledger import Ledger

    ledger = Ledger(folder)
    work_offline_if_needed(*hub_names(ledger.recipe(ledger.history())))


def _print_status(state: LedgerStatus) -> None:
    print_columns(
        ["Request", "Received", "Unlearned", "Rows", "First model", "Now", "Left", "Forgotten"],
        [_request_cells(request) for request in state.requests],
    )
    print_result("")
    if state.measured:
        print_columns(
            ["After", "Requests", "Utility", "First model", "Forgotten"],
            [_measured_cells(measured) for measured in state.measured],
        )
    if not state.is_current and any(request.unlearned for request in state.requests):
        print_result("The current model was not measured yet. Run: expunge requests status LEDGER --measure")
    if state.due:
        print_result(f"A retrain is due: {'; '.join(state.due)}.")
    elif state.is_current:
        print_result("No retrain is due.")
    limit = "" if state.rule.max_requests is None else f", or after {state.rule.max_requests} requests"
    print_result(
        f"Rule: due below {state.rule.utility_share:.0%} of the first model's utility, or if more than "
        f"{state.rule.remaining_share:.0%} of the knowledge of a request is left{limit}."
    )


def _request_cells(request: RequestState) -> list[str]:
    from expunge.records.format import format_interval, format_point

    cells = [request.id, request.received, request.unlearned[:10] or "pending", str(request.num_rows)]
    if request.last is None:
        return [*cells, "", "", "", "not measured" if request.unlearned else ""]
    last = request.last
    outcome = {True: "yes", False: "no", None: "cannot be concluded"}[last.forgotten]
    # Few persons have no interval, which the guide explains, so no cell repeats the reason.
    numbers = [f"{format_point(value)} {format_interval(value)}".strip() for value in (last.before, last.knowledge)]
    left = "" if last.remaining.point is None else f"{last.remaining.point:.0%}"
    return [*cells, *numbers, left, f"{outcome} (texts purged)" if request.purged else outcome]


def _measured_cells(measured: Measured) -> list[str]:
    from expunge.records.format import format_value

    num_forgotten = sum(remaining.forgotten is True for remaining in measured.requests.values())
    utility = [format_value(value) for value in (measured.utility, measured.utility_before)]
    return [measured.after, str(measured.num_applied), *utility, f"{num_forgotten} of {len(measured.requests)}"]
