"""What `screen bundle verify` says, for a technician: what was held against what, and what it means."""

from contract.bundle import Manifest
from contract.reproduction import MOST_CHANGED, Figures
from worker.agreement import ENOUGH_EQUAL, Agreement
from worker.engines.base import Engine
from worker.engines.proving import Proof


def proof_sentences(manifest: Manifest, engine: Engine, proof: Proof) -> list[str]:
    """Of an engine that reproduces the bundle: its figures beside what is tolerated."""
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


def _novelty(manifest: Manifest, precision: str, of: Figures, name: str) -> str:
    return (
        f"novelty of the {name} captures differs by at most {of.novelty:.2g} (at most "
        f"{manifest.novelty_tolerance[precision]:g}, where 1 is the border of what the bundle knows)"
    )


def _hidden(manifest: Manifest, precision: str, of: Figures) -> list[str]:
    changed = [f"{of.labels_changed} have another label", f"{of.excluded_changed} count or not, otherwise"]
    if of.novel_changed is not None:
        changed.insert(1, f"{of.novel_changed} are novel or not, otherwise")
    sentence = (
        f"{of.captures} hidden captures of validation: {', '.join(changed)} (at most {MOST_CHANGED:.1%} each); largest "
        f"difference in probability {of.probability:.2g}"
    )
    return [sentence] if of.novelty is None else [sentence, _novelty(manifest, precision, of, "hidden")]


def agreement_sentences(found: Agreement) -> list[str]:
    """What comparing an archive with float32 came to, and in the end whether this precision may serve."""
    return [
        f"{found.captures} captures, {found.rejected} more cannot be read: {found.equal} keep their label "
        f"({found.equal_share:.2%}, at least {ENOUGH_EQUAL:.1%} wanted); largest difference in probability "
        f"{found.largest_difference:.2g}, in novelty {found.largest_novelty_difference:.2g}",
        f"novel: {found.novel[0]} here, {found.novel[1]} in float32, {found.novel_changed} captures differ; "
        f"left out of results: {found.excluded[0]} here, {found.excluded[1]} in float32, {found.excluded_changed} "
        f"captures differ (at most {MOST_CHANGED:.1%} may)",
        f"verdicts here: {_counted(found.verdicts[0])}; in float32: {_counted(found.verdicts[1])}; largest difference "
        f"in the score of a case {found.largest_score_difference:.2g}; {found.verdicts_changed} of {found.cases} "
        "verdicts differ",
        "this precision decides as float32 does"
        if found.good_enough
        else "this precision does not decide as float32 does on these captures; set SCREEN_PRECISION=float32",
    ]


def _counted(verdicts: dict[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "none"
