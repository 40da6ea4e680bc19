"""Keeps modules of the current folder out: an archive may hold a redis.py, and it would run with the caller's rights.

`python -m` and `python -c` put the current folder first into the search path, and so does Celery while it looks for an
application (celery.utils.imports.cwd_in_path). Imports nothing that the interpreter has not imported at its start.
"""

import os
import site
import sys


class _Nothing:
    """Finds no module in a folder."""

    def find_spec(self, _name: str, _target: object = None) -> None:
        return None


def refuse_current_folder() -> None:
    """From now on no module comes from the current folder, whoever puts it into the search path, here and in children.

    It stays allowed where this program itself, Python or its packages lie in it: then it is a developer's folder.
    """
    try:
        here = os.path.realpath(os.getcwd())  # noqa: PTH109 - pathlib is not imported yet, and may be forged
    except OSError:  # it was removed
        return
    program, python = os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__)  # noqa: PTH120
    if here in map(os.path.realpath, (program, python, *site.getsitepackages())):
        return

    def hook(folder: str) -> _Nothing:
        if os.path.realpath(folder) != here:
            raise ImportError
        return _Nothing()

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != here]
    os.environ["PYTHONSAFEPATH"] = "1"
