"""What all our HTML has: a content security policy, and no text from outside that is more than text.

The pages are one file each, without scripts, and load nothing. The policy makes a browser hold them to that, whatever a
name or a comment in them contains (W3C, "Content Security Policy Level 3"): no script runs, nothing is fetched or sent,
no style counts but the one that was written here, by its digest.
"""

import base64
import hashlib
import re
from typing import Any

from markupsafe import Markup

from contract.printable import printable_lines

_CHARSET = '<meta charset="utf-8">'


def finalized(value: Any) -> Any:
    """For jinja2's `finalize`: text from outside as printable text; it is escaped afterwards."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def with_policy(page: str) -> str:
    """The page with its policy, which allows the first `<style>` and embedded pictures.

    Values in the page must be escaped: then the first `<style>` is the template's.
    """
    head, _, rest = page.partition(_CHARSET)
    style = re.search(r"<style>(.*?)</style>", rest, re.DOTALL)
    assert rest, "a template of ours names its encoding"
    assert style is not None, "a template of ours has its style"
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return f'{head}{_CHARSET}\n<meta http-equiv="Content-Security-Policy" content="{policy}">{rest}'
