"""Files of the history that cannot be written, read, found or trusted, and rows that do not add up."""

from collections.abc import Iterable

from cohort_pipelines.core.errors.base import NOTHING_SENT, CohortPipelinesError


class HistoryError(CohortPipelinesError):
    """A file of the history cannot be written, read, found or trusted."""


class HistoryNotWritable(HistoryError):
    """The history's folder refuses to be written."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"The history could not be written at {path}: {cause}. No partial file was left. {NOTHING_SENT} Check free "
            "space and permissions of that folder."
        )


class MemoryLimitReached(HistoryError):
    """Sorting or joining users takes more memory than it may, although it spills to disk."""

    def __init__(self, limit: str) -> None:
        super().__init__(
            f"Sorting or joining the users took more than {limit} of memory, which is all that it may take. "
            f"{NOTHING_SENT} Free disk space does not help: please report how many members the cohort has, and how "
            "long their ids are."
        )


class HistoryNotReadable(HistoryError):
    """The history's disk or object store refuses to be read, or cannot be reached."""

    REACH = "Check that it can be reached, and the permissions there"

    def __init__(self, path: str, cause: str, remedy: str = REACH) -> None:
        super().__init__(f"The history could not be read at {path}: {cause}. {NOTHING_SENT} {remedy}; then run again.")


class HistoryFileMissing(HistoryError):
    """A sealed file that is needed is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The sealed file {path} is gone from the history. {NOTHING_SENT} Restore it from a backup, or materialize "
            "the step that makes it; where it is a plan or a membership, run `cohort-pipelines ledger rebuild`."
        )


class HistoryFileDamaged(HistoryError):
    """A sealed file no longer has the bytes that its checksum names."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"The sealed file {path} does not match its checksum. {NOTHING_SENT} Restore it from a backup, or remove "
            "it and materialize the step that makes it; if it is a plan or a membership, run `cohort-pipelines ledger "
            "rebuild`."
        )


class IdsForgotten(HistoryError):
    """Ids that a target may hold are in no file of the history any more, so that no plan could remove them from it."""

    def __init__(self, target: str, held: int, found: int, history: str) -> None:
        super().__init__(
            f"The ledger was not rebuilt: {target!r} may hold {held:,} ids, and the files that name them are gone or "
            f"damaged. What is left of the history at {history} names {found:,}; who is not among these would stay at "
            f"the partner for good. {NOTHING_SENT} Put the history back from a backup, or name the right one in "
            "COHORT_PIPELINES_DATA; if it is lost for good, cohort-pipelines ledger rebuild --forget leaves them there."
        )


class InitialMembersUnusable(HistoryError):
    """The file of what a target held before the first delivery is not there, or not one of user ids."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"The baseline {path} cannot be adopted: {problem}. {NOTHING_SENT} It must be a CSV file in UTF-8, with "
            "commas, or a Parquet file, with a column that is named partner_user_id, user_id, distinct_id or id; one "
            "of one column without such a name needs `initial_members_have_header: false`. Correct it, or "
            "declare `initial_members: empty` or `initial_members: unknown`."
        )


class NotInHistory(HistoryError):
    """What was asked for was never stored under that name."""

    def __init__(self, name: str, kind: str, known: Iterable[str], root: str = "") -> None:
        there = ", ".join(known) or "none yet"
        super().__init__(f"The history{root and ' at '}{root} has no {kind} {name!r}. There is: {there}.")


class IdentityError(CohortPipelinesError):
    """Members cannot be mapped to partner ids."""


class PropertyNotInSnapshot(IdentityError):
    """The id rule reads a profile property that the snapshot did not keep."""

    def __init__(self, name: str, window: str) -> None:
        super().__init__(
            f"The snapshot of {window} does not hold the profile property {name!r}, since no rule needed it when it "
            f"was taken. {NOTHING_SENT} Only a new snapshot can have it: materialize the window that is open now."
        )


class CountsDoNotAddUp(IdentityError):
    """A member is in neither the payload nor the excluded members, or in both."""

    def __init__(self, members: int, users: int, excluded: int) -> None:
        super().__init__(
            f"The snapshot has {members:,} members, but payload ({users:,}) and excluded members ({excluded:,}) have "
            f"{users + excluded:,}. {NOTHING_SENT} Materialize identified_users and partner_payload from this "
            "snapshot again; if it stays, report it as a bug."
        )
