"""Finding the rows for which a partner refuses a whole request: the halves of what it refused are sent by themselves.

Breadth first, so that a budget which does not reach to the last row has let through as many others as it can. What is
left of it stays refused as a whole, is listed, and goes alone in the next delivery.

Both halves of a chunk refused, and nothing acknowledged since, looks like a connection or a target that went bad. Then
one row is tried by itself. If it is refused too, the next refused chunk ends the attempt.
"""

from collections import deque
from collections.abc import Sequence

from cohort_pipelines.delivery.chunks import Chunk

_BOTH = 2


class Bisection:
    """Parts of refused chunks that wait to be sent, and what refusals in a row say of the connection.

    Args:
        budget: how many requests may be spent on parts.
        judges_rows: whether the partner judges row by row, so that there is nothing to find out by dividing.
    """

    def __init__(self, budget: int, *, judges_rows: bool) -> None:
        self._budget = budget
        self._judges_rows = judges_rows
        self._waiting: deque[Chunk] = deque()
        self._good = False  # whether anything was acknowledged, or is trusted to be
        self._in_row = 0  # refusals since the last acknowledgement that speak against the connection
        self._probe: Chunk | None = None  # one row, to be tried when they do
        self._probed = -1  # the row that was tried last
        self._probe_refused = False

    @property
    def suspects_the_connection(self) -> bool:
        """Whether both halves of a chunk (undivided: two chunks) were refused, and nothing was acknowledged since."""
        return self._in_row >= _BOTH

    def trust(self) -> None:
        """Take connection and target for good, though nothing was acknowledged yet, so that parts can tell."""
        self._good |= not self._judges_rows

    def acknowledged(self) -> None:
        """Take note that rows were acknowledged: the connection and the target are good."""
        self._good, self._in_row, self._probe_refused = True, 0, False

    def rejected(self, chunk: Chunk) -> bool:
        """Take note that ``chunk`` was refused as a whole; return whether that convicts the connection."""
        undivided = self._judges_rows or not self._budget
        whole = not chunk.splits and not chunk.alone
        convicted = whole and self.suspects_the_connection and (undivided or self._probe_refused)
        if self._good and not chunk.alone and chunk.splits == (0 if undivided else 1):
            self._in_row += 1
        self._probe_refused |= self.suspects_the_connection and chunk.lo == self._probed
        return convicted

    def divide(self, chunk: Chunk) -> Sequence[Chunk]:
        """Return the parts of a refused ``chunk`` that are to be tried by themselves; a single row is its only part."""
        if self._judges_rows or chunk.hi - chunk.lo == 1:
            return [chunk]
        probed = self.suspects_the_connection and chunk.splits == 1
        middle = chunk.lo + 1 if probed else (chunk.lo + chunk.hi) // 2
        return [chunk.part(chunk.lo, middle), chunk.part(middle, chunk.hi)]

    def put(self, parts: Sequence[Chunk]) -> None:
        """Let what :meth:`divide` returned wait to be sent, once the ledger knows it by these parts."""
        first, *others = parts
        if not others:
            return
        if self.suspects_the_connection and first.hi - first.lo == 1 and self._probe is None:
            self._probe, parts = first, others
        if len(self._waiting) < self._budget:
            self._waiting.extend(parts)

    def take(self) -> Chunk | None:
        """Return the next part to be sent, if there is one, and rows rather than the connection are to blame."""
        if not self._budget or not self._good:
            return None
        if (part := self._probe) is not None:
            self._probe, self._probed = None, part.lo
        elif self._waiting and not self.suspects_the_connection:
            part = self._waiting.popleft()
        self._budget -= part is not None
        return part
