"""Finding the bundle of a run on this machine."""

from pathlib import Path

from contract.bundle import Bundle, manifest_digest
from contract.errors import BundleError


def find_bundle(digest: str, recorded: Path, bundle_dir: Path | None) -> Bundle:
    """Open the bundle of this digest from its path at submit, or else from `bundle_dir`; verifies all its files.

    Raises BundleError.
    """
    if bundle_dir is None or manifest_digest(recorded) == digest:
        return Bundle.open(recorded, expected_digest=digest)
    for folder in sorted(bundle_dir.iterdir()) if bundle_dir.is_dir() else []:
        if manifest_digest(folder) == digest:
            return Bundle.open(folder, expected_digest=digest)
    raise BundleError(
        f"bundle {digest[:12]} is neither at {recorded} nor in SCREEN_BUNDLE_DIR ({bundle_dir}); copy it there"
    )
