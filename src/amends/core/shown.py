"""Text of others on a terminal: what would move a cursor, change a colour or name a window is shown instead of done.

A model's answer, a server's complaint or a key of a file may hold escape sequences. Line ends and tabs stay; every other
control character of ASCII and Latin-1 (C0, DEL, C1) stands there as Python would write it: nothing is lost and nothing happens.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(text: str) -> str:
    r"""The text without control characters: `\x1b` for an escape; a line end of Windows becomes one of Unix.

    >>> shown("a\x1b[31mb\r\nc")
    'a\\x1b[31mb\nc'
    """
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text.replace("\r\n", "\n"))
