"""Gates: what an overwrite must not do unasked. They are judged under the lease, however the upload was started."""

from dataclasses import dataclass

REMEDY = "If the change is meant, set gates.{setting} in the sync's defs.yaml and materialize the upload again."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate found: a value, the limit it was held against, and the finding in words."""

    name: str
    value: float
    limit: float
    held: bool
    finding: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits of a sync.

    Attributes:
        min_users: a payload with fewer users is held.
        max_shrink: a payload smaller than what the target may hold by more than this share (0 to 1) is held.
        allow_empty: an empty payload passes ``min_users``; ``max_shrink`` still holds it where the target is not empty.
    """

    min_users: int = 1
    max_shrink: float = 0.5
    allow_empty: bool = False

    def judge(self, users: int, before: int) -> list[Verdict]:
        """Judge a payload of ``users`` for a target that may hold up to ``before`` of them."""
        return [self._enough(users), self._not_shrunk(users, before)]

    def _enough(self, users: int) -> Verdict:
        held = users < self.min_users and not (self.allow_empty and users == 0)
        finding = f"the payload has {users:,} users, at least {self.min_users:,} are wanted"
        setting = "min_users" if users else "allow_empty"
        return Verdict("min_users", users, self.min_users, held, finding, REMEDY.format(setting=setting))

    def _not_shrunk(self, users: int, before: int) -> Verdict:
        shrink = max(0.0, 1 - users / before) if before else 0.0
        finding = (
            f"the payload has {users:,} users after {before:,}, a loss of {shrink:.1%}; "
            f"up to {self.max_shrink:.0%} is allowed"
        )
        held = shrink > self.max_shrink
        return Verdict("max_shrink", shrink, self.max_shrink, held, finding, REMEDY.format(setting="max_shrink"))
