"""Finding the bundle that a run was submitted with on this machine."""

import hashlib
from pathlib import Path

from contract.bundle import MANIFEST, Bundle
from contract.errors import BundleError


def find_bundle(digest: str, recorded: Path, bundle_dir: Path | None) -> Bundle:
    """Open the bundle of this digest: where it lay at submit, else in `bundle_dir`; all files verified.

    Raises BundleError.
    """
    if _has_digest(recorded, digest) or bundle_dir is None:
        return Bundle.open(recorded, expected_digest=digest)
    for folder in sorted(bundle_dir.iterdir()) if bundle_dir.is_dir() else []:
        if _has_digest(folder, digest):
            return Bundle.open(folder, expected_digest=digest)
    raise BundleError(
        f"bundle {digest[:12]} is neither at {recorded} nor in SCREEN_BUNDLE_DIR ({bundle_dir}); copy it there"
    )


def _has_digest(folder: Path, digest: str) -> bool:
    manifest = folder / MANIFEST
    return manifest.is_file() and hashlib.sha256(manifest.read_bytes()).hexdigest() == digest
