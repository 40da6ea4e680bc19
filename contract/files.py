"""Files that are there whole or not at all, whatever ends the process."""

import os
from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` beside `file` and rename it; folders above are made. Text is UTF-8. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
