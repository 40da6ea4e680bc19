"""The folder that workers of one user keep on their machine: compiled engines, and flight records."""

from pathlib import Path

from platformdirs import user_cache_path

from contract.settings import Settings


def cache_folder(settings: Settings) -> Path:
    """Created for this user alone. Raises OSError."""
    folder = settings.cache_dir or user_cache_path("slide-screen", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
