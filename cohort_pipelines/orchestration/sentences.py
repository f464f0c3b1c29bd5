"""What Dagster, pydantic and YAML say in many lines, in one sentence that repeats no value: one may be a secret."""

from collections.abc import Iterator, Mapping, Sequence

import yaml
from pydantic import ValidationError

from cohort_pipelines.errors import CohortPipelinesError

_WORDS = {"extra_forbidden": "there is no such attribute", "missing": "it is missing"}


def sentence(error: BaseException, given: Mapping[str, object] | None = None) -> str:
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


def _of_validation(error: ValidationError, given: Mapping[str, object]) -> str:
    """Return what pydantic says of each attribute; of the alternatives that a type has, the first."""
    said: dict[str, str] = {}
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        if each["loc"][-1:] == ("str",):  # Dagster lets every attribute be the text of a template
            continue
        message = _WORDS.get(each["type"]) or each["msg"]
        said.setdefault(_path(each["loc"], given), message[0].lower() + message[1:])
    return "; ".join(f"{path}: {message}" for path, message in said.items())


def _path(location: tuple[int | str, ...], given: object) -> str:
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
        path.append(str(part).partition(" at ")[0])  # to which Dagster adds the file
    return ".".join(path)


def _last_line(error: BaseException) -> str:
    """Return what an error says in the end; Dagster puts the file's own lines and a traceback before that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
