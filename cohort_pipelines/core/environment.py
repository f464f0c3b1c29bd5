"""References to environment variables, `{{ env.NAME }}`: kept as they stand while code loads, looked up when used.

A project's .env wins over the environment, since it does so in Dagster's own commands, which run the syncs. So a
project loads without its secrets, a missing one is named by the step that needs it, and no value of a secret is ever
held in a definition, shown in the UI or stored with a run.
"""

import os
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from cohort_pipelines.core.errors import EnvironmentFileInvalid, MissingVariable, VariableInvalid

_REFERENCE = re.compile(r"\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def file_values(folder: Path) -> dict[str, str]:
    """Return what the .env in ``folder`` sets; nothing where there is none.

    Raises:
        EnvironmentFileInvalid: it cannot be read, is not text in UTF-8, or has a line that sets nothing.
    """
    path = folder / ".env"
    if not path.is_file():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EnvironmentFileInvalid(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EnvironmentFileInvalid(path, "is not text in UTF-8") from None
    if "\0" in text:  # as in UTF-16
        raise EnvironmentFileInvalid(path, "is not text in UTF-8")
    if wrong := next((binding for binding in parse_stream(StringIO(text)) if binding.error), None):
        raise EnvironmentFileInvalid(path, f"has no NAME=value in line {wrong.original.line}")
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def read_file(folder: Path) -> list[str]:
    """Set in the environment what the .env in ``folder`` says; return the names that had another value.

    Raises:
        EnvironmentFileInvalid: it cannot be read, or is not text in UTF-8.
    """
    values = file_values(folder)
    differing = differing_from(values, os.environ)
    os.environ.update(values)
    return differing


def differing_from(values: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Return the names that have a value in both, and not the same."""
    return sorted(name for name, value in values.items() if others.get(name) and others[name] != value)


def is_reference(text: str) -> bool:
    """Tell whether ``text`` is one reference and nothing else."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def resolve(text: str, *, wanted_for: str) -> str:
    """Replace every reference in ``text`` by the variable's value, without the white space around it.

    Raises:
        MissingVariable: a variable is unset or empty; ``wanted_for`` says in the message who needs it.
        VariableInvalid: it has more than one line, or another control character in it.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "").strip()
        if not found:
            raise MissingVariable(match[1], wanted_for)
        if _CONTROL.search(found):
            raise VariableInvalid(match[1], wanted_for)
        return found

    return _REFERENCE.sub(value, text.strip())
