"""Finding the bundle of a run on this machine."""

import hashlib
from pathlib import Path

from contract.bundle import MANIFEST, Bundle
from contract.errors import BundleError


def find_bundle(digest: str, recorded: Path, bundle_dir: Path | None) -> Bundle:
    """Open the bundle of this digest from its path at submit, or else from `bundle_dir`; verifies all its files.

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
