"""Gates: what an overwrite must not do unasked. They are judged under the lease, however the upload was started.

A payload is held against what the target was made to hold of late and may hold now, never against how far a delivery
came: the rest of a first fill that was let through is let through too. Counts are compared as they are, without a floor
for small audiences, where one person is a large share: a sync for a handful of people wants wider limits.
"""

from dataclasses import dataclass

from cohort_pipelines.ledger import Verdict

REMEDY = (
    "If the change is meant, let it go with `cohort-pipelines approve`, or set gates.{setting} in the sync's "
    "defs.yaml and start the same again."
)

_NAMES = ("min_users", "max_shrink", "max_growth", "max_churn", "min_identified_share", "min_mapped_share")
"""Each is called as its limit in :class:`Gates`; one without a limit is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What gates are judged by.

    Attributes:
        users: ids in the payload.
        joiners: ids that would be added.
        leavers: ids that would be removed.
        held: ids that the target has in, or maybe in.
        most_today: the most users that one of the last 24 hours' overwrites delivered; None: there was none.
        most_this_week: the same of the last 7 days, or of the newest one before them.
        least_today: the least, but for empty overwrites.
        least_this_week: the same of the last 7 days, or of the newest one before them.
        members: members of the cohort in the snapshot; None: not known.
        identified: those with a profile property; None: not known.
        filling: nothing was ever delivered to the target, or nothing the last time, so that there is nothing to compare
            growth and churn with.
    """

    users: int
    joiners: int = 0
    leavers: int = 0
    held: int = 0
    most_today: int | None = None
    most_this_week: int | None = None
    least_today: int | None = None
    least_this_week: int | None = None
    members: int | None = None
    identified: int | None = None
    filling: bool = False


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits of a sync; all shares are numbers from 0 to 1, growth and churn may be more.

    Attributes:
        min_users: a payload with fewer users is held.
        max_shrink: a payload smaller by more than this share is held, against the most that was delivered in the last
            7 days and what the target may hold; and so is one that would remove more than this share of the latter.
        max_growth: a payload larger by more than this share is held, against the least that was delivered in the last
            7 days; None: off.
        max_churn: a payload whose joiners and leavers together are more than this share of what the target may hold is
            held; None: off.
        min_identified_share: a cohort of which a smaller share is identified is held, and so is one of nobody
            identified unless ``allow_empty``.
        min_mapped_share: identified users of whom a smaller share has a partner id are held.
        allow_empty: an empty payload passes ``min_users``; the others still hold it.
    """

    min_users: int = 1
    max_shrink: float = 0.5
    max_growth: float | None = None
    max_churn: float | None = None
    min_identified_share: float = 0.0
    min_mapped_share: float = 0.01
    allow_empty: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The gates that are on, in the order in which they are judged."""
        return tuple(name for name in _NAMES if getattr(self, name) is not None)

    def judge(self, facts: Facts) -> list[Verdict]:
        """Return what each gate that is on finds."""
        verdicts = [self._enough(facts), self._not_shrunk(facts)]
        if self.max_growth is not None:
            verdicts.append(_not_grown(facts, self.max_growth))
        if self.max_churn is not None:
            verdicts.append(_not_churned(facts, self.max_churn))
        return [*verdicts, self._identified(facts), self._mapped(facts)]

    def _enough(self, facts: Facts) -> Verdict:
        held = facts.users < self.min_users and not (self.allow_empty and facts.users == 0)
        finding = f"the payload has {facts.users:,} users, at least {self.min_users:,} are wanted"
        setting = "min_users" if facts.users else "allow_empty"
        return _verdict("min_users", facts.users, self.min_users, finding, held=held, setting=setting)

    def _not_shrunk(self, facts: Facts) -> Verdict:
        allowed = f"up to {_percent(self.max_shrink)} is allowed"
        before, since = _most(facts)
        shrink = max(0.0, _share(before - facts.users, before))
        removed = _share(facts.leavers, facts.held)
        if not before:
            finding = f"the target is not known to hold anybody whom the {facts.users:,} users could fall short of"
        elif removed > shrink:
            finding = (
                f"{facts.leavers:,} of {facts.held:,} users that the target may hold would be removed, "
                f"{_percent(removed)}; {allowed}"
            )
        else:
            finding = f"the payload has {facts.users:,} users after {before:,} {since}, a loss of {_percent(shrink)}; "
            finding += allowed
        lost = max(shrink, removed)
        return _verdict("max_shrink", lost, self.max_shrink, finding, held=lost > self.max_shrink)

    def _identified(self, facts: Facts) -> Verdict:
        name, limit = "min_identified_share", self.min_identified_share
        if facts.identified is None or not facts.members:
            return _verdict(name, 1.0, limit, "the cohort has no members, or they were not counted")
        share = facts.identified / facts.members
        finding = (
            f"{facts.identified:,} of {facts.members:,} members are identified, {_percent(share)}; "
            f"at least {_percent(limit)}{'' if limit else ' and not nobody'} is wanted"
        )
        nobody = facts.identified == 0 and not self.allow_empty
        setting = name if share < limit else "allow_empty"
        return _verdict(name, share, limit, finding, held=share < limit or nobody, setting=setting)

    def _mapped(self, facts: Facts) -> Verdict:
        name, limit = "min_mapped_share", self.min_mapped_share
        if not facts.identified:
            return _verdict(name, 1.0, limit, "there are no identified users to find partner ids of")
        share = facts.users / facts.identified
        finding = (
            f"{facts.users:,} of {facts.identified:,} identified users have a partner id, {_percent(share)}; "
            f"at least {_percent(limit)} is wanted"
        )
        return _verdict(name, share, limit, finding, held=share < limit)


def _not_grown(facts: Facts, limit: float) -> Verdict:
    before, since = _least(facts)
    if facts.filling or not before:
        return _verdict("max_growth", 0.0, limit, f"nothing was delivered that {facts.users:,} users could grow from")
    growth = max(0.0, (facts.users - before) / before)
    finding = (
        f"the payload has {facts.users:,} users after {before:,} {since}, a growth of {_percent(growth)}; "
        f"up to {_percent(limit)} is allowed"
    )
    return _verdict("max_growth", growth, limit, finding, held=growth > limit)


def _not_churned(facts: Facts, limit: float) -> Verdict:
    if facts.filling or not facts.held:
        finding = f"the target has no audience yet that {facts.joiners:,} joiners could change"
        return _verdict("max_churn", 0.0, limit, finding)
    churn = (facts.joiners + facts.leavers) / facts.held
    finding = (
        f"{facts.joiners:,} joiners and {facts.leavers:,} leavers of {facts.held:,} users that the target may hold are "
        f"{_percent(churn)}; up to {_percent(limit)} is allowed"
    )
    return _verdict("max_churn", churn, limit, finding, held=churn > limit)


def _most(facts: Facts) -> tuple[int, str]:
    """Return the size to be measured against, with when it was; of equals the nearest."""
    sizes = (
        (facts.held, "that the target may hold"),
        (facts.most_today or 0, "in the last 24 hours"),
        (facts.most_this_week or 0, "delivered before"),
    )
    return max(sizes, key=lambda size: size[0])


def _least(facts: Facts) -> tuple[int, str]:
    sizes = (
        (facts.least_today, "in the last 24 hours"),
        (facts.least_this_week, "delivered before"),
    )
    delivered = [(users, since) for users, since in sizes if users]
    return min(delivered, key=lambda size: size[0], default=(facts.held, "that the target may hold"))


def _verdict(
    name: str, value: float, limit: float, finding: str, *, held: bool = False, setting: str | None = None
) -> Verdict:
    return Verdict(name, value, limit, held, finding, REMEDY.format(setting=setting or name))


def _share(part: int, whole: int) -> float:
    """Return ``part`` of ``whole``; nothing of nothing. Divided once, so that 3 of 10 is what 0.3 is."""
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{share:,.1%}".replace(".0%", "%")
