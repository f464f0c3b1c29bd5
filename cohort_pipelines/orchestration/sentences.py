"""What Dagster, pydantic and YAML say in many lines, in one sentence that repeats no value: one may be a secret."""

import re
from collections.abc import Iterator, Mapping, Sequence

import yaml
from pydantic import ValidationError

from cohort_pipelines.core.errors import CohortPipelinesError

_DOT = re.compile(r"\.(?![^\[]*\])")  # outside brackets
_WORDS = {"extra_forbidden": "there is no such attribute", "missing": "it is missing"}


def sentence(error: BaseException, given: object = None) -> str:
    """Return why something could not be loaded; ``given`` are the attributes, as far as they could be read."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, CohortPipelinesError):
            return str(cause)
        if isinstance(cause, ValidationError):
            return _of_validation(cause, given or {})
        if isinstance(cause, UnicodeDecodeError):
            return "the file is not in UTF-8"
        if isinstance(cause, yaml.MarkedYAMLError):
            mark = cause.context_mark or cause.problem_mark  # where it begins, or is found
            line = f", line {mark.line + 1}" if mark else ""
            return f"the file is no YAML: {', '.join(filter(None, (cause.context, cause.problem)))}{line}"
    return _last_line(causes[-1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_validation(error: ValidationError, given: object) -> str:
    """Return what pydantic says of each attribute; of the alternatives that a type has, the first."""
    said: dict[str, str] = {}
    no_text: list[tuple[str, str]] = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        message, parts = _WORDS.get(each["type"]) or each["msg"], list(_parts(each["loc"]))
        message = message[0].lower() + message[1:]
        if each["type"] == "string_type" and parts[-1:] == ["str"]:
            no_text.append((_path(parts[:-1], given), message))
        else:
            said.setdefault(_path(parts, given), message)
    for path, message in no_text:  # Dagster lets every attribute be the text of a template
        if not any(f"{other}.".startswith(f"{path}.") for other in said):
            said[path] = message
    return "; ".join(f"{path or 'the document'}: {message}" for path, message in said.items())


def _parts(location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Yield the parts of a location, which Dagster joins into one where it adds the file."""
    for part in location:
        joined, in_file, _ = str(part).partition(" at ")
        if in_file:
            yield from (int(each) if each.isdigit() else each for each in _DOT.split(joined))
        else:
            yield part


def _path(location: Sequence[int | str], given: object) -> str:
    """Return where in ``given`` something is wrong; pydantic's names of types are no part of it."""
    path: list[str] = []
    for index, part in enumerate(location, 1):
        if isinstance(given, Mapping):
            if part not in given and index < len(location):
                continue
            given = given.get(part)
        elif isinstance(given, Sequence) and isinstance(part, int):
            given = given[part]
        else:
            continue
        path.append(str(part))
    return ".".join(path)


def _last_line(error: BaseException) -> str:
    """Return what an error says in the end; Dagster puts the file's own lines and a traceback before that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
