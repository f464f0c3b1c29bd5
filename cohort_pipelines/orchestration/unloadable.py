"""Why a project's declarations do not load, in one sentence: Dagster, pydantic and YAML use many lines each."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from cohort_pipelines.errors import CohortPipelinesError
from cohort_pipelines.orchestration.invalid import ProjectNotLoaded


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """Raise what went wrong while loading as an error of ours, whatever Dagster wraps around it.

    Raises:
        ConfigurationError: what is wrong, and in which declaration.
    """
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        ours = next((cause for cause in causes if isinstance(cause, CohortPipelinesError)), None)
        raise ours or ProjectNotLoaded(_problem(causes)) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _problem(causes: list[BaseException]) -> str:
    where = "" if len(causes) == 1 else str(causes[0]).partition("\n")[0].rstrip(":") + ": "
    return where + _said_by(causes[-1])


def _said_by(error: BaseException) -> str:
    if isinstance(error, ValidationError):  # its own text repeats the values, and one of them may be a secret
        return "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        )
    return " ".join(str(error).split()).rstrip(".")
