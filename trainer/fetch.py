"""The public data set of Aria et al. from Kaggle, through kagglehub."""

import shutil
from pathlib import Path

from contract.errors import Unavailable, UsageError

DATASET = "mehradaria/leukemia"


def fetch(out: Path) -> Path:
    """Download the set, or take it from kagglehub's cache, and copy Original/ (and Segmented/) to `out`.

    Returns the folder. Raises UsageError if `out` exists, Unavailable if the set cannot be had.
    """
    if out.exists():
        raise UsageError(f"{out} exists; name another folder, or use it as it is")
    import kagglehub

    try:
        found = Path(kagglehub.dataset_download(DATASET))
    except Exception as error:  # requests, Kaggle's client and the file system each raise their own
        raise Unavailable(
            f"the data set {DATASET} cannot be downloaded from Kaggle ({type(error).__name__}); connect to the "
            "internet, or fetch it by hand from kaggle.com/datasets and name its folder"
        ) from error
    base = next((folder.parent for folder in sorted(found.rglob("Original")) if folder.is_dir()), None)
    if base is None:
        raise Unavailable(f"{found}: the download has no folder Original; Kaggle may have changed the set")
    shutil.copytree(base, out)
    return out
