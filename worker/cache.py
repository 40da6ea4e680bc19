"""The folder where the workers of one user on this machine keep compiled engines and flight records."""

from pathlib import Path

from platformdirs import user_cache_path

from contract.settings import Settings


def cache_folder(settings: Settings) -> Path:
    """The cache folder, created for this user only. Raises OSError."""
    folder = settings.cache_dir or user_cache_path("slide-screen", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
