"""The root of this project's errors, and what says that trying again can help."""

NOTHING_SENT = "Nothing was sent; the audience is as it was."


class CohortPipelinesError(Exception):
    """Base of every error this project raises on purpose."""


class Transient:
    """Mixed into errors that may pass by themselves; ``retry_after`` is in seconds, when the server named it."""

    retry_after: float | None = None
