"""What a bundle says against itself. It belongs beside every result: where results are, the model card seldom is.

`bundle_warnings` makes the sentences; the model card, reports, FHIR, the reporting queue and the review show these.
"""

from collections.abc import Mapping
from typing import Any

from contract.bundle import Manifest

RED_FINDINGS = ("looking elsewhere", "falls by more", "not clearly better than always naming")
"""Words of those findings of the robustness test that warn; the other findings say that a check was passed."""
TRAINING_SPLITS = frozenset({"train", "validation"})
"""Splits that shaped a bundle: validation captures chose its epoch, temperature and thresholds."""


def bundle_warnings(manifest: Manifest) -> list[str]:
    """The bundle's notice, then the warnings of its model card: a split that leaks, unknown patients, accuracy that
    falls under held-out looks or stays with the cells masked, thresholds without their promise. Empty if none applies;
    a figure that an older bundle does not have gives no sentence.
    """
    notice = [manifest.notice] if manifest.notice else []
    return [*notice, *card_warnings(manifest)]


def card_warnings(manifest: Manifest) -> list[str]:
    """The warnings of the model card without the notice."""
    provenance, test = manifest.provenance, _part(manifest.metrics, "test")
    findings = _part(test, "robustness").get("findings", [])
    warnings = _split_warnings(_part(provenance, "split"), test.get("captures"))
    warnings += [one for one in findings if is_red(one)]
    if provenance.get("patients_known") is False:
        warnings.append(
            "Patients were unknown in this data: captures of one person may lie on both sides of the split, and the "
            "figures may be too high."
        )
    promise = _part(provenance, "case_thresholds").get("promise", "")
    if promise and "met with confidence" not in promise:
        warnings.append(promise)
    return warnings


def is_red(finding: str) -> bool:
    """Whether a finding of the robustness test is a warning."""
    return any(words in finding for words in RED_FINDINGS) and "the evidence lies in the cells" not in finding


def training_sentence(in_training: int | None, of: int) -> str | None:
    """How many of `of` screened captures the bundle was made with; None if it was made with none of them, or if it does
    not list its captures (`in_training` is None).
    """
    if not in_training:
        return None
    return (
        f"{in_training} of {of} screened captures were in this bundle's training or validation: on these its answers "
        "are remembered, and look better than they are."
    )


def _split_warnings(split: Mapping[str, Any], captures: int | None) -> list[str]:
    leaks = split.get("leaks", 0)
    if split.get("kind") == "random":
        return [
            "This split leaks. Captures were drawn at random, so captures of one smear lie on both sides: "
            f"{leaks} of {captures} test captures have a near-duplicate in training. The figures are too high, by an "
            "unknown amount; do not quote them without saying so."
        ]
    if leaks:
        return [
            f"{leaks} of {captures} test captures have a near-duplicate in training: this split leaks, and the figures "
            "are too high."
        ]
    return []


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a manifest's free values; empty if there is none, or another release wrote something else there."""
    part = values.get(name)
    return part if isinstance(part, Mapping) else {}
