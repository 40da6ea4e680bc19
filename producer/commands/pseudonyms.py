"""`screen pseudonyms`: which patient has which pseudonym."""

from pathlib import Path

import click

from contract.archive import walk_archive
from contract.errors import ExitCode
from contract.names import display_name
from contract.options import patient_depth_option
from contract.pseudonyms import read_key
from contract.settings import get_settings
from producer.output import CSV, csv_out, json_out, output_options, plain, stdout, table

COLUMNS = ("pseudonym", "patient")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@patient_depth_option()
@output_options
def pseudonyms(archive: Path, patient_depth: int, output: str) -> ExitCode:
    """List the patients of ARCHIVE with the pseudonyms that they have in results.

    Needs the key of their submit, in SCREEN_PSEUDONYM_KEY_FILE, but no database.
    """
    key = read_key(get_settings().pseudonym_key_file)
    walked = walk_archive(archive, patient_depth)
    patients = {capture.patient for capture in walked.captures}
    patients |= {patient.patient for patient in walked.without_captures}
    rows = [{"pseudonym": key.pseudonym(name).decode(), "patient": display_name(name)} for name in sorted(patients)]
    if output == "json":
        json_out(rows)
    elif output in CSV:
        csv_out(rows, COLUMNS, output)
    else:
        shown = table(None, COLUMNS, fold=("patient",))
        for row in rows:
            shown.add_row(row["pseudonym"], plain(row["patient"]))
        stdout.print(shown)
    return ExitCode.OK
