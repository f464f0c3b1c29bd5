"""Who is identified, and which partner id is theirs: pure functions over Arrow."""

from cohort_pipelines.identity import mapping
from cohort_pipelines.identity.mapping import (
    PARTNER_ID,
    PAYLOAD_SCHEMA,
    SPACE,
    Equality,
    IdRule,
    Reason,
    equality_key,
    invalid_text,
    surrounding_space,
)

__all__ = [
    "PARTNER_ID",
    "PAYLOAD_SCHEMA",
    "SPACE",
    "Equality",
    "IdRule",
    "Reason",
    "equality_key",
    "invalid_text",
    "mapping",
    "surrounding_space",
]
