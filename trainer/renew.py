"""`screen reference`: takes a bundle's reference statistics again, with its own graph; the network stays unchanged."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.bundle import MODEL, Bundle, write_manifest
from contract.errors import DataError, UsageError
from contract.files import whole_folder
from trainer import assess, reference
from trainer.config import DataTable
from trainer.data import LabelledData
from trainer.export import SPLIT_FILE
from trainer.graph import GraphRunner
from trainer.progress import bar
from trainer.proof import HIDDEN_CAPTURES, spread, write_expectations
from trainer.run import decode_all, read_labelled
from trainer.splits import given_names


def renew(
    bundle: Bundle, root: Path, out: Path, *, split: Path | None, cache: Path, widths: Sequence[int] | None = None
) -> Bundle:
    """Write a copy of `bundle` to `out` whose reference comes from the labelled captures under `root`; the results that
    engines must reproduce are renewed too.

    `split` says which captures are the training captures that the classes are taken from, and which the validation
    captures that the threshold of novelty is fitted on; without it, the bundle's own split says so. `widths` are those
    of the blocks of its embedding, needed where its manifest does not give them.

    Raises UsageError where `out` exists already, DataError where a split or a label has no readable capture.
    """
    if out.exists():
        raise UsageError(f"{out} is there already; name a folder that does not exist")
    manifest = bundle.manifest
    table = DataTable(labels=manifest.labels, benign_label=manifest.benign_label)
    data = read_labelled(root, table, for_training=False)
    names = np.asarray(
        given_names(bundle.path / SPLIT_FILE, data, bundle.read(SPLIT_FILE))
        if split is None
        else given_names(split, data)
    )
    decoded = decode_all(data, manifest.image, cache)
    names[list(decoded.unreadable)] = "unreadable"
    train, validation = (np.flatnonzero(names == name) for name in ("train", "validation"))
    train, targets = reference.some_of(train), data.targets()
    if not len(validation) or len(np.unique(targets[train])) < len(manifest.labels):
        raise DataError(
            f"{root}: the split needs readable training captures of every label, and readable validation captures"
        )
    runner = GraphRunner(bundle.read(MODEL), manifest.outputs)
    with bar("training captures", len(train)) as progress:
        training = assess.predict(runner, decoded.pixels, train, progress.advance)
    with bar("validation captures", len(validation)) as progress:
        held_out = assess.predict(runner, decoded.pixels, validation, progress.advance)
    blocks = manifest.reference.get("novelty", {}).get("blocks", [{"begin": 0, "end": training.embedding.shape[1]}])
    with whole_folder(out) as folder:
        bundle.copy_to(folder)
        statistics = reference.take_reference(
            folder, widths or [block["end"] - block["begin"] for block in blocks], decoded.pixels, train,
            training.embedding, targets[train], held_out.embedding,
            1 - held_out.probabilities[:, manifest.benign_index],
        )  # fmt: skip
        source = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"), "data_digest": data.digest,
            "train": len(train), "validation": len(validation), "of_bundle": bundle.digest,
        }  # fmt: skip
        provenance = {**manifest.provenance, "reference": source}
        renewed = manifest.model_copy(update={"reference": statistics, "provenance": provenance})
        write_expectations(folder, renewed, decoded.pixels[_hidden(data, validation)])
        write_manifest(folder, renewed)
    return Bundle.open(out)


def _hidden(data: LabelledData, validation: NDArray[np.int64]) -> list[int]:
    labels = [data.captures[i].label for i in validation]
    patients = [data.captures[i].patient for i in validation]
    return spread(validation, labels, patients, HIDDEN_CAPTURES, seed=0)
