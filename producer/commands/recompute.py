"""`screen recompute`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import click
from pydantic import ValidationError

from contract.case_policy import CasePolicy, RuleName
from contract.errors import ExitCode, UsageError
from contract.settings import get_settings
from db import recompute as results
from db.recompute import Change, Result
from db.schema import open_database
from producer.output import (
    CSV,
    ID,
    csv_out,
    json_out,
    login_name,
    output_options,
    plain,
    result_codes,
    say,
    stdout,
    table,
)

COLUMNS = (
    "case_id", "patient", "verdict_before", "verdict_after", "subtype_before", "subtype_after", "score_before",
    "score_after", "priority_before", "priority_after", "signed",
)  # fmt: skip


@click.command()
@click.argument("run", type=ID)
@click.option("--rule", type=click.Choice(get_args(RuleName)), help="Use this case rule instead of the bundle's.")
@click.option(
    "--benign-at-most",
    type=float,
    help="Call a case benign up to this score, from 0 to 1, instead of the bundle's threshold.",
)
@click.option(
    "--all-at-least",
    type=float,
    help="Call a case ALL from this score on, from 0 to 1, instead of the bundle's threshold.",
)
@click.option(
    "--min-captures",
    type=int,
    help="Call a case with fewer usable captures insufficient, instead of the bundle's number.",
)
@click.option(
    "--positive-from", type=float, help="For positive_share: count a capture from this P(ALL) on, from 0 to 1."
)
@click.option("--top-k", type=int, help="For top_k_mean: take the mean of this many highest P(ALL).")
@click.option(
    "--link", type=float, help="For noisy_or: let one capture alone raise the score by at most this, from 0 to 1."
)
@click.option("--apply", "apply_", is_flag=True, help="Write the new results; without this they are only shown.")
@output_options
def recompute(run: int, apply_: bool, output: str, **changed: Any) -> ExitCode:
    """Compute the results of RUN again from their rows, and show which would change.

    Without options the bundle's own case rule is used: then nothing should change. Captures are not screened again.
    With --apply the changed results are written, and reported to other systems as corrections; the audit keeps the old
    ones. A case that a reviewer has signed stays as they saw it.
    """
    database = open_database(get_settings().database_url)
    bundle_policy = results.bundle_policy(database, run)
    policy = _policy(bundle_policy, {name: value for name, value in changed.items() if value is not None})
    if policy.rule != bundle_policy.rule and changed["benign_at_most"] is changed["all_at_least"] is None:
        say(
            f"the thresholds are those of {bundle_policy.rule}: for {policy.rule} give --benign-at-most and "
            "--all-at-least",
            "yellow",
        )
    changes = results.recompute(database, run, policy, apply=apply_, actor=login_name())
    if output == "json":
        rows = [_row(change) for change in changes]
        json_out({"run": run, "policy": policy.model_dump(mode="json"), "applied": apply_, "changes": rows})
    elif output in CSV:
        csv_out([_row(change) for change in changes], COLUMNS, output)
    else:
        _print(changes)
    signed = sum(change.signed for change in changes)
    other = sum(_is_another(change) for change in changes if not change.signed)
    would = "" if apply_ else "would "
    say(f"run {run}, {policy.rule}: {other} results {would}change verdict or subtype, "
        f"{len(changes) - signed - other} {would}keep these but change the score")  # fmt: skip
    if signed:
        say(f"{signed} more results differ but stay as they are, because a reviewer has signed them", "yellow")
    if changes and not apply_:
        say("nothing is written; --apply writes it")
    return ExitCode.OK


def _policy(bundle_policy: CasePolicy, changed: dict[str, Any]) -> CasePolicy:
    try:
        return CasePolicy.model_validate({**bundle_policy.model_dump(), **changed})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "thresholds"
        raise UsageError(f"{field.replace('_', '-')}: {first['msg']}") from error


def _row(change: Change) -> dict[str, object]:
    """Flat values: case_id, patient, signed, and each figure before and after."""
    row: dict[str, object] = {"case_id": change.case_id, "patient": change.patient, "signed": change.signed}
    before, after = asdict(change.before), asdict(change.after)
    for name in before:
        row |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    return row


def _print(changes: Sequence[Change]) -> None:
    if not changes:
        return
    columns = ("case", "patient", "result", "new result", "score", "new score")
    shown = table(None, columns, ("case", "score", "new score"), fold=("patient",))
    for change in sorted(changes, key=_is_another, reverse=True):
        both = (change.before, change.after)
        shown.add_row(
            str(change.case_id), plain(change.patient), *(plain(_verdict(result)) for result in both),
            *("" if result.score is None else f"{result.score:.3f}" for result in both),
            style="bold" if _is_another(change) else None,
        )  # fmt: skip
    stdout.print(shown)


def _is_another(change: Change) -> bool:
    return _verdict(change.before) != _verdict(change.after)


def _verdict(result: Result) -> str:
    return result_codes(result.verdict, result.subtype)
