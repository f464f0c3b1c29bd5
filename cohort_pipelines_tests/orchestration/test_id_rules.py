"""Which id of a user each partner is sent, on both ID merges."""

import pytest

from cohort_pipelines.identity.mapping import IdRule
from cohort_pipelines.orchestration.connections import (
    ApptimizeDestination,
    IdMerge,
    TaplyticsDestination,
    WebhookDestination,
)

APPTIMIZE_ID = "$apptimize_user_id"


@pytest.mark.parametrize("id_merge", ["original", "simplified"])
def test_taplytics_is_never_sent_the_id_of_a_device(id_merge: IdMerge) -> None:
    assert TaplyticsDestination.model_construct().id_rule(id_merge) == IdRule(exclude_device_ids=True)


def test_apptimize_is_sent_its_own_id_or_the_user_id_but_no_device() -> None:
    apptimize = ApptimizeDestination.model_construct(delivery="http")

    assert apptimize.id_rule("original") == IdRule(source=APPTIMIZE_ID, prefixes=("i_", "a_"))
    assert apptimize.id_rule("simplified") == IdRule(exclude_device_ids=True, compare_with=APPTIMIZE_ID)


@pytest.mark.parametrize("id_merge", ["original", "simplified"])
def test_a_webhook_is_sent_any_distinct_id_as_mixpanel_sends_it(id_merge: IdMerge) -> None:
    assert WebhookDestination.model_construct(match_on="distinct_id").id_rule(id_merge) == IdRule()
