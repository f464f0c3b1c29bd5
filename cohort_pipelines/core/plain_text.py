"""Text that others wrote, made fit to be shown: a control character in a name can rewrite a terminal's screen."""

import re

# control characters, separators of lines, marks that turn the direction of what follows, and halves of pairs
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

NOT_TEXT = "\N{OBJECT REPLACEMENT CHARACTER}"  # precedes the JSON of what is no string and no integer


def shown(text: str) -> str:
    """Return ``text`` with U+FFFD in place of each character that is no visible one."""
    return _NOT_SHOWN.sub("\N{REPLACEMENT CHARACTER}", text)
