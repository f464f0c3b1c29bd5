"""What a materialization shows: numbers that the UI plots over partitions, and never a user id."""

from collections.abc import Mapping, Sequence

import dagster as dg

from cohort_pipelines.core import environment
from cohort_pipelines.core.errors import DeliveryDeferred, VariableUnusable
from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.ledger import Approval, SealedSnapshot, Verdict, WindowRecord
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.snapshots import Identified, Payload, Snapshot

Metadata = dict[str, dg.MetadataValue | int | float | str | bool]


def share(part: int, whole: int) -> float:
    """Return ``part`` of ``whole`` as a number from 0 to 1; nothing of nothing is all of it."""
    return part / whole if whole else 1.0


def _of_file(stored: StoredFile, seconds: float) -> Metadata:
    return {
        "dagster/row_count": stored.rows,
        "bytes": stored.size,
        "seconds": round(seconds, 3),
        "file": dg.MetadataValue.path(stored.path),
        "checksum": stored.checksum,
    }


def of_snapshot(snapshot: Snapshot) -> Metadata:
    """Describe a snapshot that was just taken."""
    return _of_file(snapshot.file, snapshot.seconds) | {
        "members": snapshot.rows,
        "anonymous": snapshot.anonymous,
        "malformed": snapshot.malformed,
        "share identified": share(snapshot.rows - snapshot.anonymous - snapshot.malformed, snapshot.rows),
        "taken at": dg.MetadataValue.timestamp(snapshot.taken_at),
        "pages": snapshot.pages,
        "requests": snapshot.requests,
        "queries of the hourly budget": snapshot.queries,
        "read twice": snapshot.reread,
        "kept": False,
    }


def of_kept_snapshot(snapshot: SealedSnapshot) -> Metadata:
    """Describe a sealed snapshot that was kept instead of reading Mixpanel."""
    return _of_file(snapshot.file, 0.0) | {
        "members": snapshot.rows,
        "taken at": dg.MetadataValue.timestamp(snapshot.taken_at),
        "requests": 0,
        "queries of the hourly budget": 0,
        "kept": True,
    }


def of_identified(found: Identified) -> Metadata:
    """Describe the identified users."""
    return _of_file(found.file, found.seconds) | {
        "members": found.members,
        "identified": found.identified,
        "anonymous": found.members - found.identified - found.malformed,
        "malformed": found.malformed,
        "share identified": share(found.identified, found.members),
    }


def of_payload(payload: Payload, members: int) -> Metadata:
    """Describe a payload and its excluded; the preview shows shapes, not samples."""
    return _of_file(payload.file, payload.seconds) | {
        "users": payload.users,
        "members": members,
        "share mapped": share(payload.users, payload.identified),
        "excluded": sum(payload.excluded_by_reason.values()),
        "excluded by reason": _table("reason", "members", payload.excluded_by_reason),
        "partner id differs from the user id": payload.differing_partner_ids,
        "preview": dg.MetadataValue.md(
            "| column | type | rows | kept where |\n|---|---|---|---|\n"
            f"| partner_user_id | string | {payload.file.rows:,} | `{payload.file.path}` |\n\n"
            "User ids are never shown here; read them with `cohort_pipelines.history.read`."
        ),
    }


def of_receipt(receipt: Receipt, sync: ResolvedSync, windows: Sequence[WindowRecord]) -> Metadata:
    """Describe an overwrite by its receipt, and how many of the newest ``windows`` were missed."""
    described: Metadata = {
        "target": receipt.target,
        "state": receipt.state.value,
        "members": receipt.members,
        "identified": receipt.identified,
        "excluded": receipt.excluded,
        "users": receipt.users,
        "joiners": receipt.joiners,
        "leavers": receipt.leavers,
        "unchanged": receipt.unchanged,
        "repeated": receipt.repeated,
        "reconciled": receipt.reconciled,
        "rejected": receipt.rejected,
        "in_doubt": receipt.in_doubt,
        "requests": receipt.requests,
        "seconds": round(receipt.seconds, 3),
        "payload checksum": receipt.payload_checksum,
        "generation": dg.MetadataValue.text(str(receipt.generation)),  # an ordinal: nothing to plot
        "recent windows missed": sum(window.state == "missed" for window in windows),
    }
    link = _link(sync.link)
    asked_for = {"restored from": receipt.restored_from, "approved": receipt.approved}
    described |= {name: text for name, text in asked_for.items() if text}
    return described | {"link": dg.MetadataValue.url(link)} if link else described


def of_verdict(verdict: Verdict, approval: Approval | None) -> Metadata:
    """Describe what a gate found, and by whose word the payload passed it all the same."""
    described: Metadata = {"value": verdict.value, "limit": verdict.limit, "finding": verdict.finding}
    return described | {"approved": str(approval)} if approval else described


def of_deferred(deferred: DeliveryDeferred) -> Metadata:
    """Describe how far a delivery came before its deadline."""
    described: Metadata = {"done": deferred.done, "planned": deferred.planned}
    if deferred.eta_seconds is None:
        return described
    return described | {"minutes still needed": round(deferred.eta_seconds / 60, 1)}


def _link(link: str) -> str:
    try:
        found = environment.resolve(link, wanted_for="the link")
    except VariableUnusable:
        return ""
    return found if is_web_address(found) else ""


def is_web_address(text: str) -> bool:
    """Tell whether a browser would open ``text`` as a page, and not run it."""
    return text.strip().startswith(("https://", "http://"))


def _table(name: str, number: str, counts: Mapping[str, int]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: each, number: count}) for each, count in counts.items()],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, "string"), dg.TableColumn(number, "int")]),
    )
