"""`screen submit`: walk, write the rows, commit, publish."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click

from contract import here
from contract.archive import Archive, walk_archive
from contract.bundle import Bundle
from contract.bundle_signature import require_signature
from contract.errors import BrokerUnavailable, ExitCode, UsageError
from contract.names import display_name
from contract.options import patient_depth_option
from contract.pseudonyms import read_key
from contract.settings import Settings, get_settings
from db.schema import open_database
from db.submission import Submission, plan_submit
from db.submission import submit as write_run
from db.submit_plan import SubmitPlan, SubmitRequest
from producer.output import json_out, say
from producer.pseudonymous import Pseudonymous, pseudonymize_option, pseudonymous_names, pseudonymous_patients
from producer.publish import check_redis, publish_chunks
from producer.walked import (
    captures_by_patient,
    exit_code,
    list_patients,
    say_names_kept,
    say_read_again,
    say_walked,
    say_withdrawn,
    verify_option,
)
from producer.watching import watch_run


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    envvar="SCREEN_BUNDLE",
    show_envvar=True,
    help="Screen with this bundle instead of the one that SCREEN_BUNDLE names.",
)
@click.option("--all", "everything", is_flag=True, help="Screen all captures, also those that were screened before.")
@verify_option
@patient_depth_option()
@pseudonymize_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="List the patients with their numbers of captures, and write nothing.",
)
@click.option("--watch", is_flag=True, help="Follow the run until it is finished.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the run and what the walk found, skipped files included, as JSON on stdout.",
)
def submit(
    archive: Path,
    bundle: Path | None,
    everything: bool,
    verify: bool,
    patient_depth: int,
    pseudonymize: bool,
    dry_run: bool,
    watch: bool,
    as_json: bool,
) -> ExitCode:
    """Put the captures of ARCHIVE, a folder with one folder per patient, on the queue.

    Prints the run's id on stdout. Submitting the same folder again with the same bundle screens only the patients
    with new, changed or removed captures; a patient's unchanged captures keep their results.

    Exits 1 if patients have no captures, because then somebody must look; it names them. With --watch also as
    `screen watch` does: if captures were rejected or quarantined, or most captures of most patients do not count.
    """
    settings = get_settings()
    if default := here.default_database(settings):
        here.refuse_inside(archive, default, here.DATABASE)
    opened = Bundle.open(required_bundle(bundle))
    require_signature(opened, settings.trusted_keys)
    database = open_database(settings.database_url)
    walked = walk_archive(archive, patient_depth)
    request = submit_request(walked, opened, settings, everything=everything, verify=verify, pseudonymize=pseudonymize)
    say_walked(walked, hide_names=pseudonymize)
    say_names_kept(database, request)
    if dry_run:
        plan = plan_submit(database, request)
        _say_plan(walked, plan, None)
        if as_json:
            json_out(_as_json(walked, request, plan, None))
        else:
            list_patients(request, plan)
        return exit_code(walked, plan)
    check_redis(settings.redis_url)
    submission = write_run(database, request)
    _say_plan(walked, submission.plan, submission)
    if as_json:
        json_out(_as_json(walked, request, submission.plan, submission))
    else:
        click.echo(submission.run_id)
    try:
        publish_chunks(settings.redis_url, database, submission.chunk_ids)
    except BrokerUnavailable as error:
        raise BrokerUnavailable(
            f"{error}. Run {submission.run_id} is stored: a worker sends its chunks as soon as it reaches Redis; "
            "do not submit again"
        ) from error
    watched = ExitCode.OK
    if watch and submission.run_id is not None:
        watched = watch_run(database, submission.run_id)
    return watched or exit_code(walked, submission.plan)


def required_bundle(bundle: Path | None) -> Path:
    """The bundle. Raises UsageError if neither --bundle nor SCREEN_BUNDLE names one."""
    if bundle is None:
        raise UsageError("which bundle? name one with --bundle FOLDER or SCREEN_BUNDLE")
    return bundle


def submit_request(
    walked: Archive, bundle: Bundle, settings: Settings, *, everything: bool, verify: bool, pseudonymize: bool
) -> SubmitRequest:
    """The request for the database layer. Raises SettingsError if it needs pseudonyms and there is no key."""
    key = read_key(settings.pseudonym_key_file) if pseudonymize else None
    return SubmitRequest(
        root=walked.root,
        bundle=bundle,
        captures=walked.captures if key is None else Pseudonymous(walked, key),
        skipped=walked.skipped if key is None else pseudonymous_names(walked, key),
        without_captures=walked.without_captures if key is None else pseudonymous_patients(walked, key),
        patient_depth=walked.patient_depth,
        patients_complete=walked.complete,
        pseudonym_key=None if key is None else key.fingerprint,
        chunk_size=settings.chunk_size,
        software_version=version("slide-screen"),
        everything=everything,
        verify=verify,
        reviewers_required=settings.reviewers,
        report_at_sign_off=settings.report_at == "sign_off",
        site=settings.site,
    )


def _say_plan(walked: Archive, plan: SubmitPlan, submission: Submission | None) -> None:
    say_withdrawn(plan)
    say_read_again(plan.read_again)
    head = f"{len(walked.captures)} captures of {walked.patients} patients: "
    if not plan.writes_a_run:
        say(head + f"nothing new; all were submitted before with this bundle, last in run {plan.last_run}")
        return
    verb = "would screen" if submission is None else f"run {submission.run_id} screens"
    parts = [f"{verb} {plan.pending} of {plan.cases} patients"]
    if not plan.cases:
        parts = [f"{'a run' if submission is None else f'run {submission.run_id}'} only names those without captures"]
    if plan.reused:
        parts.append(f"{plan.reused} unchanged captures of these patients keep their results")
    if plan.unchanged:
        parts.append(f"{plan.unchanged} captures belong to patients with nothing new or removed")
    if submission is not None:
        parts.append(f"{len(submission.chunk_ids)} chunks")
    say(head + "; ".join(parts))


def _as_json(
    walked: Archive, request: SubmitRequest, plan: SubmitPlan, submission: Submission | None
) -> dict[str, object]:
    return {
        "run": submission.run_id if submission else None,
        "created": submission.created if submission else False,
        "captures": len(walked.captures),
        "patients": walked.patients,
        "patient_depth": walked.patient_depth,
        "by_patient": dict(captures_by_patient(request)),
        "without_captures": [asdict(patient) | {"withdraws": patient.withdraws} for patient in plan.absent],
        "doubt": walked.layout.doubt(walked.patient_depth),
        "to_screen": plan.pending,
        "cases": plan.cases,
        "reused": plan.reused,
        "unchanged": plan.unchanged,
        "read_again": {
            "moved": plan.read_again.moved,
            "verified": plan.read_again.verified,
            "unchanged": plan.read_again.unchanged,
            "changed": len(plan.read_again.changed),
        },
        "chunks": len(submission.chunk_ids) if submission else None,
        "skipped": dict(request.skipped),
        "look_alikes": []
        if request.pseudonym_key
        else [list(map(display_name, group)) for group in walked.look_alikes],
    }
