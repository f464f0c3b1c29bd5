"""Wrong declarations, environments and folders, and services that do not run."""

from pathlib import PurePath

from cohort_pipelines.core.errors.base import NOTHING_SENT, CohortPipelinesError


class ConfigurationError(CohortPipelinesError):
    """The declarations or the environment are wrong; no service was asked anything."""


class VariableUnusable(ConfigurationError):
    """A declaration refers to an environment variable that is not set, or whose value cannot be used."""


class MissingVariable(VariableUnusable):
    """An environment variable that a declaration refers to is not set."""

    def __init__(self, name: str, wanted_for: str) -> None:
        super().__init__(
            f"The environment variable {name} is not set; {wanted_for} needs it. {NOTHING_SENT} "
            f"Set {name} in the environment or in the project's .env file, where an empty line wins over the "
            "environment; then run again."
        )
        self.name = name


class CertificatesUnreadable(ConfigurationError):
    """The certificates that the environment names cannot be read."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({cause}). Nothing was asked of "
            "any service. Name a file of PEM certificates, or unset the variable."
        )


class VariableInvalid(VariableUnusable):
    """An environment variable that a declaration refers to holds what no setting can."""

    def __init__(self, name: str, wanted_for: str) -> None:
        super().__init__(
            f"The environment variable {name} holds a line break or another control character in the middle; "
            f"{wanted_for} needs a value of one line. {NOTHING_SENT} Set {name} again, then run again."
        )


class EnvironmentFileInvalid(ConfigurationError):
    """A project's .env is there and cannot be used."""

    def __init__(self, path: PurePath, problem: str) -> None:
        super().__init__(f"{path} {problem}. {NOTHING_SENT} Save it as text in UTF-8, in lines of NAME=value.")


class PathInvalid(ConfigurationError):
    """A path that is set or declared names no place."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"The path {path} cannot be used: {problem}. {NOTHING_SENT} Write it in full.")


class SyncUnknown(ConfigurationError):
    """A command named a sync that the project does not declare."""

    def __init__(self, name: str, known: tuple[str, ...], kind: str = "sync") -> None:
        super().__init__(
            f"This project declares no {kind} {name!r}. Nothing was run. Declared are: {', '.join(known) or 'none'}."
        )


class ConfirmationNeeded(ConfigurationError):
    """A command that changes an audience has to be confirmed, and there is no terminal to ask at."""

    def __init__(self, question: str) -> None:
        super().__init__(f"{question} There is no terminal to ask that at. Nothing was changed. Say --yes.")


class ProjectFolderInvalid(ConfigurationError):
    """A command was pointed at a folder that it cannot or must not use."""

    def __init__(self, folder: PurePath, problem: str, remedy: str) -> None:
        super().__init__(f"{folder}: {problem}. Nothing was changed. {remedy}")


class DestinationInvalid(ConfigurationError):
    """A destination's setting cannot be sent as it is: its URL, a header, its key."""

    def __init__(self, partner: str, problem: str) -> None:
        super().__init__(f"{partner}: {problem}. {NOTHING_SENT} Correct this setting of the destination.")
        self.problem = problem


class ServingError(CohortPipelinesError):
    """A project cannot be served, or no longer."""


class RunsNotRecorded(ServingError):
    """Dagster's own records of runs cannot be read or written."""

    def __init__(self, home: str, cause: str) -> None:
        super().__init__(
            f"Dagster's records, which the dagster.yaml in {home} names, cannot be used: {cause}. Check that file, "
            "and free space and permissions there. What was delivered, if anything, is in the ledger: "
            "cohort-pipelines history tells."
        )


class PortTaken(ServingError):
    """Another program listens at the port that was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Another program listens at port {port}. Nothing was started. Stop it, or name another port: --port."
        )


class ServiceEnded(ServingError):
    """One of the processes that serve a project ended by itself."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(
            f"{name} ended by itself (exit code {code}); its own words stand above. Everything else was stopped. "
            "No schedule runs until the project is served again; a delivery goes on from what was sent."
        )
