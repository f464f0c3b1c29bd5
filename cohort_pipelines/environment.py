"""References to environment variables, `{{ env.NAME }}`: kept as they stand while code loads, looked up when used.

So a project loads without its secrets, a missing one is named by whoever needs it, and no value of a secret is ever
held in a definition, shown in the UI or stored with a run.
"""

import os
import re

from cohort_pipelines.errors import MissingVariable

_REFERENCE = re.compile(r"\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def is_reference(text: str) -> bool:
    """Tell whether ``text`` is one reference and nothing else."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def resolve(text: str, *, wanted_for: str) -> str:
    """Replace every reference in ``text`` by the variable's value.

    Raises:
        MissingVariable: a variable is unset or empty; ``wanted_for`` says in the message who needs it.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not found:
            raise MissingVariable(match[1], wanted_for)
        return found

    return _REFERENCE.sub(value, text.strip())
