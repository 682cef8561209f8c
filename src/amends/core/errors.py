"""What a user did wrong, in one sentence.

`UserError` is the only exception the command line turns into a message and an exit code of 2; every other one
is a defect of ours and keeps its traceback. The sentence names the file, line or key, and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message is one sentence that says where it is and what to do about it."""


class NeedsReference(UserError):
    """A term asked for the reference model, and the stage was given none."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'npo'?)` for a near miss, else ` (known: ...)`; ready to append to a sentence.

    >>> nearest("npoo", ["npo", "nll"])
    " (did you mean 'npo'?)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""
