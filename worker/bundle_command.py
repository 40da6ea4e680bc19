"""`screen bundle show|verify|keygen|sign|compile`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from contract.archive import Archive, walk_archive
from contract.bundle import Bundle
from contract.bundle_signature import make_key, require_signature
from contract.bundle_signature import sign as sign_bundle
from contract.errors import ExitCode, UsageError
from contract.options import patient_depth_option
from contract.printable import printable, printable_json
from contract.reproduction import MOST_CHANGED
from contract.settings import Settings, get_settings
from contract.states import EngineName, Precision
from contract.terminal import data_out
from worker.agreement import BATCH, Agreement, compare
from worker.cache import cache_folder
from worker.engines import plans
from worker.engines.base import Engine, EngineOptions, NotUsable, golden_batch
from worker.engines.plan_cache import PlanKey, plan_folder
from worker.engines.proving import prove_sizes
from worker.engines.registry import ENGINES, load, open_engine
from worker.limits import Opened, in_child
from worker.tuning import CPU_SIZES, best_batch
from worker.verification import agreement_sentences, proof_sentences

BUNDLE = click.Path(path_type=Path)
TOLERANCES = ("golden", "novelty", "map")
engine_option = click.option(
    "--engine",
    type=click.Choice([name.value for name in EngineName]),
    help="Use this engine instead of SCREEN_ENGINE.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice([name.value for name in Precision]),
    help="Let the engine compute in this precision instead of SCREEN_PRECISION.",
)


@click.group()
def bundle() -> None:
    """Show, verify, compile or sign a bundle, the folder that `screen train` writes."""


@bundle.command()
@click.argument("path", type=BUNDLE)
def show(path: Path) -> None:
    """Print the manifest and the digest of the bundle PATH as JSON."""
    opened = Bundle.open(path)
    click.echo(_dumped({"digest": opened.digest, **opened.manifest.model_dump(mode="json")}))


@bundle.command()
@click.argument("path", type=BUNDLE)
@engine_option
@precision_option
@click.option(
    "--captures", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Also compare this engine with float32 on every capture of this archive, a folder for each patient.",
)  # fmt: skip
@patient_depth_option("With --captures: take the folders this many levels below the archive for the patients.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON on stdout, instead of the digest.")
def verify(
    path: Path, engine: str | None, precision: str | None, captures: Path | None, patient_depth: int, as_json: bool
) -> ExitCode:
    """Check the files of the bundle PATH against their digests, and an engine against the results that the bundle
    stores for its captures: label, novelty, and whether they count.

    Exit code 1 where an engine does not reproduce the bundle. With --captures, also where fewer than 99.9 % of the
    captures keep their label, more than 0.5 % differ from float32 in whether they count or are novel, or a verdict
    differs.
    """
    opened = Bundle.open(path)
    _say(f"{opened.manifest.name}: {len(opened.manifest.files)} files match their digests")
    options, settings = _options(engine, precision), get_settings()
    if signer := require_signature(opened, settings.trusted_keys):
        _say(f"signed with the trusted key {signer}")
    walked = walk_archive(captures, patient_depth) if captures else None
    record, good_enough = in_child(
        lambda is_open: _verified(opened, options, walked, is_open), settings, seconds=settings.open_seconds
    )
    click.echo(_dumped(record) if as_json else opened.digest)
    return ExitCode.OK if good_enough else ExitCode.SOME_ENDED_BADLY


def _verified(
    opened: Bundle, options: EngineOptions, walked: Archive | None, is_open: Opened
) -> tuple[dict[str, Any], bool]:
    """All figures, and whether the engine is good enough for the captures of an archive, if there is one."""
    running, proof = open_engine(opened, options)
    for sentence in proof_sentences(opened.manifest, running, proof):
        _say(sentence)
    batch, rate = best_batch(running, golden_batch(opened)[0])
    prove_sizes(running, opened, batch if walked is None else max(batch, BATCH))
    is_open()
    _say(f"{rate:.0f} decoded captures/s in batches of {batch}")
    record: dict[str, Any] = {
        "digest": opened.digest,
        "engine": running.name,
        "precision": running.precision,
        "device": running.device,
        "tolerance": {name: getattr(opened.manifest, f"{name}_tolerance")[running.precision] for name in TOLERANCES},
        "changed_at_most": MOST_CHANGED,
        **asdict(proof),
        "batch_size": batch,
        "captures_per_s": round(rate, 1),
    }
    if walked is None:
        return record, True
    agreement = _agreement(opened, running, options, walked)
    record["agreement"] = {
        **asdict(agreement), "equal_share": agreement.equal_share, "good_enough": agreement.good_enough
    }  # fmt: skip
    return record, agreement.good_enough


def _agreement(bundle: Bundle, running: Engine, options: EngineOptions, walked: Archive) -> Agreement:
    reference, _ = open_engine(bundle, EngineOptions("auto", "float32", options.cache_dir))
    prove_sizes(reference, bundle, BATCH)
    with click.progressbar(length=len(walked.captures), label="comparing", file=sys.stderr) as bar:
        agreement = compare(bundle, running, reference, walked, bar.update)
    _say(f"{running.name} in {running.precision} against {reference.name} in float32:")
    for sentence in agreement_sentences(agreement):
        _say(sentence)
    return agreement


@bundle.command()
@click.argument("file", type=BUNDLE)
def keygen(file: Path) -> None:
    """Write a new private key into FILE, for `screen bundle sign`, and print its public key.

    Whoever trusts it puts the public key into the file that SCREEN_TRUSTED_KEYS names.
    """
    click.echo(make_key(file))


@bundle.command()
@click.argument("path", type=BUNDLE)
@click.option("--key", type=BUNDLE, required=True, help="Sign with the private key in this file.")
def sign(path: Path, key: Path) -> None:
    """Vouch for the bundle PATH: check its files, and write bundle.sig into it. Prints the public key."""
    click.echo(sign_bundle(Bundle.open(path), key))


@bundle.command("compile")
@click.argument("path", type=BUNDLE)
@engine_option
@precision_option
@click.option(
    "--target",
    help="For tensorrt: build for these devices, by compute capability (sm80,sm86), instead of this machine's device.",
)
@click.option(
    "--batch-size", type=click.IntRange(1, 1024), default=plans.DEFAULT_BATCH, show_default=True,
    help="For tensorrt: build for batches of up to this many captures, unless SCREEN_BATCH_SIZE is set.",
)  # fmt: skip
def compile_(path: Path, engine: str | None, precision: str | None, target: str | None, batch_size: int) -> None:
    """Compile the bundle PATH for an engine in advance, into the cache that workers of this user read.

    With the library tensorrt_rtx this needs no device. Prints the paths of the compiled files.
    """
    opened = Bundle.open(path)
    options = _options(engine, precision)
    if options.cache_dir is None:
        raise UsageError("there is no folder to keep compiled files in; set SCREEN_CACHE_DIR to one")
    chosen = _first_usable() if options.engine == "auto" else options.engine
    if chosen != "tensorrt":
        if target:
            raise UsageError(f"--target is for tensorrt; {chosen} compiles for this machine only")
        _say(
            in_child(
                lambda _: _ready(opened, replace(options, engine=chosen, batch_size=None)), get_settings(), seconds=None
            )
        )
        return
    precisions = [options.precision] if options.precision != "auto" else [plans.best_precision(opened)]
    targets = target.split(",") if target else [_own_target()]
    for plan_precision in precisions:
        keys = [plans.plan_key(opened, plan_precision, sm, options.batch_size or batch_size) for sm in targets]
        _compile_plans(opened, plan_precision, keys, options.cache_dir)


def _ready(opened: Bundle, options: EngineOptions) -> str:
    running, _ = open_engine(opened, options)
    prove_sizes(running, opened, max(CPU_SIZES))  # so that a worker finds them all
    return f"{running.name} in {running.precision}: ready on {running.device}"


def _compile_plans(opened: Bundle, precision: str, keys: Sequence[PlanKey], cache_dir: Path) -> None:
    summary = plans.summary(opened, precision)
    _say(f"{', '.join(summary.inputs)} -> {', '.join(summary.outputs)}")
    layers = sorted(summary.layers.items())
    _say(", ".join(f"{sum(counts.values())} {kind.lower()} ({_shares(counts)})" for kind, counts in layers))
    for key in keys:
        plan, was_kept = plans.obtain(opened, key, cache_dir)
        _say(f"{key.target}: {len(plan) / 1e6:.1f} MB{', was there already' if was_kept else ''}")
        data_out(str(plan_folder(cache_dir, plans.FOLDER) / key.file_name))


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype.lower()}" for dtype, count in sorted(counts.items()))


def _own_target() -> str:
    from worker.engines.tensorrt import own_target

    try:
        return own_target()
    except NotUsable as error:
        raise UsageError(f"{error}; name the devices to compile for with --target sm80,sm86") from error


def _first_usable() -> str:
    for name in ENGINES:
        try:
            load(name)
        except NotUsable:
            continue
        return name
    raise UsageError(f"no engine is installed; install one of {', '.join(ENGINES)}")


def _options(engine: str | None, precision: str | None) -> EngineOptions:
    settings: Settings = get_settings()
    return EngineOptions(
        engine or settings.engine, precision or settings.precision, cache_folder(settings), settings.batch_size
    )


def _dumped(value: Any) -> str:
    return printable_json(json.dumps(value, indent=2, ensure_ascii=False))


def _say(text: str) -> None:
    click.echo(printable(text), err=True)
