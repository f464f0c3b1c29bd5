"""People who could not be told how a sync fares. No message carries a channel's address."""

from collections.abc import Sequence

from cohort_pipelines.core.errors.base import CohortPipelinesError


class NoticeError(CohortPipelinesError):
    """Somebody was to be told something, and was not."""


class NoticeNotSent(NoticeError):
    """A channel did not take a message, or cannot be used as it is set up."""

    def __init__(self, channel: str, problem: str) -> None:
        super().__init__(f"{channel}: {problem}")


class AlertsUntold(NoticeError):
    """Some channels were not told of all that changed."""

    def __init__(self, problems: Sequence[str]) -> None:
        said = " ".join(f"{each.rstrip('.')}." for each in problems)
        super().__init__(
            f"Alerts could not be told. {said} Deliveries go on. What is untold is kept and tried again at the next "
            "tick; correct the channel's settings, or repair what is behind it."
        )
