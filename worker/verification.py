"""The text of `screen bundle verify`, for a technician: what was compared with what, and what the result means."""

from contract.bundle import Manifest
from contract.reproduction import MOST_CHANGED, Figures
from worker.agreement import ENOUGH_EQUAL, Agreement
from worker.engines.base import Engine
from worker.engines.proving import Proof


def proof_sentences(manifest: Manifest, engine: Engine, proof: Proof) -> list[str]:
    """For an engine that reproduces the bundle: its figures, each with the limit that the bundle tolerates."""
    golden, precision = proof.golden, engine.precision
    sentences = [
        f"{engine.name} in {precision} on {engine.device}: {golden.captures} of {golden.captures} golden captures keep "
        f"their label, largest difference in probability {golden.probability:.2g} (at most "
        f"{manifest.golden_tolerance[precision]:g})"
    ]
    if golden.cam is not None:
        sentences.append(
            f"their activation maps differ by at most {golden.cam:.1%} of their range (at most "
            f"{manifest.map_tolerance[precision]:.0%})"
        )
    if golden.novelty is not None:
        sentences.append(_novelty(manifest, precision, golden, "golden"))
    if proof.hidden is None:
        return [
            *sentences,
            "the bundle has no hidden captures; export it again for a proof of its decisions on a few hundred",
        ]
    return [*sentences, *_hidden(manifest, precision, proof.hidden)]


def _novelty(manifest: Manifest, precision: str, figures: Figures, name: str) -> str:
    return (
        f"novelty of the {name} captures differs by at most {figures.novelty:.2g} (at most "
        f"{manifest.novelty_tolerance[precision]:g}, where 1 is the border of what the bundle knows)"
    )


def _hidden(manifest: Manifest, precision: str, figures: Figures) -> list[str]:
    changed = [
        f"{figures.labels_changed} have another label",
        f"{figures.excluded_changed} changed between counting and not counting",
    ]
    if figures.novel_changed is not None:
        changed.insert(1, f"{figures.novel_changed} changed between novel and not novel")
    sentence = (
        f"{figures.captures} hidden captures of validation: {', '.join(changed)} (at most {MOST_CHANGED:.1%} each); "
        f"largest difference in probability {figures.probability:.2g}"
    )
    return [sentence] if figures.novelty is None else [sentence, _novelty(manifest, precision, figures, "hidden")]


def agreement_sentences(agreement: Agreement) -> list[str]:
    """The result of comparing an archive with float32; the last sentence says whether this precision may serve."""
    return [
        f"{agreement.captures} captures, {agreement.rejected} more cannot be read: {agreement.equal} keep their label "
        f"({agreement.equal_share:.2%}, at least {ENOUGH_EQUAL:.1%} must); largest difference in probability "
        f"{agreement.largest_difference:.2g}, in novelty {agreement.largest_novelty_difference:.2g}",
        f"novel: {agreement.novel[0]} here, {agreement.novel[1]} in float32, {agreement.novel_changed} captures "
        f"differ; left out of results: {agreement.excluded[0]} here, {agreement.excluded[1]} in float32, "
        f"{agreement.excluded_changed} captures differ (at most {MOST_CHANGED:.1%} may)",
        f"verdicts here: {_counted(agreement.verdicts[0])}; in float32: {_counted(agreement.verdicts[1])}; largest "
        f"difference in the score of a case {agreement.largest_score_difference:.2g}; "
        f"{agreement.verdicts_changed} of {agreement.cases} verdicts differ",
        "this precision decides as float32 does"
        if agreement.good_enough
        else "this precision does not decide as float32 does on these captures; set SCREEN_PRECISION=float32",
    ]


def _counted(verdicts: dict[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "none"
