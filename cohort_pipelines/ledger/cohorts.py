"""In the name of which cohort a target is written to, where the wire names one: receivers may know their groups by it.

Others know them by the cohort's name. Nobody says which, so that neither the same name for another cohort nor the same
cohort under another name may ever mean a second group without an owner.
"""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, Row, select, update

from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import CohortDeliveredTwice, CohortMoved, PayloadOfAnotherCohort
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Target
from cohort_pipelines.ledger.targets import is_filled, written

NAMELESS = {"project": 0, "cohort_id": 0}
"""In the place of a name, where what is known may not hold for the next group: all is to be sent anew."""


def is_anew(target: Row[tuple[object, ...]], cohort: NamedCohort | None) -> bool:
    """Say whether ``target``, a row of :data:`schema.target`, may be another group in the name of ``cohort``.

    It was last written to in another name, so that it has to be made, and what is known of it may not hold.
    """
    return bool(cohort and target.cohort_id is not None and (target.project, target.cohort_id) != cohort)


def require_its_cohort(
    connection: Connection, row: Row[tuple[object, ...]] | None, sync: str, cohort: NamedCohort | None
) -> None:
    """Refuse to leave ids behind in ``row``'s target that were sent in another name than that of ``cohort``.

    Raises:
        CohortMoved: it may hold ids.
    """
    if row is None or cohort is None or not is_anew(row, cohort):
        return
    left = select(schema.target.c.id).filter_by(id=row.id, retired=None).where(schema.target.c.cohort_id != 0)
    if connection.execute(left.where(is_filled())).first() is not None:
        raise CohortMoved(sync, row.name, row.cohort_id, cohort[1])


def require_sent_once(connection: Connection, target: Target, sync: str, cohort: NamedCohort | None) -> None:
    """Refuse to send ``cohort`` to a receiver that has another sync's target in its name.

    Raises:
        CohortDeliveredTwice: it has.
    """
    if cohort is None:
        return
    table = schema.target
    others = select(table).where(*_in_the_name_of(cohort, target))
    elsewhere = others.where(table.c.owner != sync, table.c.retired.is_(None), written())
    if other := connection.execute(elsewhere).first():
        raise CohortDeliveredTwice(target.host, cohort[1], other.name, other.owner)


def require_of_cohort(connection: Connection, seq: int, window: str, sync: str, cohort: NamedCohort | None) -> None:
    """Refuse to send snapshot ``seq``, of ``window``, in the name of another cohort: the declaration may have changed.

    Raises:
        PayloadOfAnotherCohort: it is another's.
    """
    row = connection.execute(select(schema.snapshot).filter_by(seq=seq)).one()
    if cohort and row.project and (row.project, row.cohort_id) != cohort:
        raise PayloadOfAnotherCohort(sync, window, row.cohort_id, cohort[1])


def name(connection: Connection, number: int, cohort: NamedCohort) -> None:
    """Remember in whose name the target ``number`` is written to from now on."""
    project, cohort_id = cohort
    connection.execute(update(schema.target).filter_by(id=number).values(project=project, cohort_id=cohort_id))


def emptied(connection: Connection, target: Target, cohort: NamedCohort) -> None:
    """Let other targets in the name of ``cohort`` be sent anew: who was in theirs may have left it with ``target``."""
    connection.execute(update(schema.target).where(*_in_the_name_of(cohort, target)).values(**NAMELESS))


def _in_the_name_of(cohort: NamedCohort, target: Target) -> Iterator[ColumnElement[bool]]:
    """Yield what is true of targets at ``target``'s receiver but itself, last written to in the name of ``cohort``."""
    columns, (project, cohort_id) = schema.target.c, cohort
    there = {"wire": target.wire, "host": target.host, "account": target.account}
    for name, value in (there | {"project": project, "cohort_id": cohort_id}).items():
        yield columns[name] == value
    yield columns.name != target.name
