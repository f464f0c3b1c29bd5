"""The connections: one Mixpanel project, one destination. The declaration in YAML is the resource that the assets use.

A field that refers to the environment keeps the reference (`{{ env.NAME }}`): the value is looked up when a step or a
check needs it, so that code loads without secrets, the UI shows references only, and one missing variable fails the
syncs that need it and no other.
"""

from abc import abstractmethod
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

import dagster as dg
from pydantic import Field

from cohort_pipelines import destinations
from cohort_pipelines.core import environment, settings
from cohort_pipelines.core.errors import DestinationInvalid
from cohort_pipelines.destinations import (
    CohortMessages,
    CsvFile,
    MembersMode,
    ReplacingMessages,
    Taplytics,
    checked_header,
    checked_url,
)
from cohort_pipelines.identity import Equality, IdRule
from cohort_pipelines.ledger import Target
from cohort_pipelines.membership import Terms
from cohort_pipelines.mixpanel import MAX_PAGE_BYTES, Project, snapshot_schema
from cohort_pipelines.orchestration.declared import MOST, NUMBER, SECRET, Declared, Id, Reference, Secret, Text
from cohort_pipelines.orchestration.invalid import (
    PropertyReserved,
    SecretInFile,
    SettingInvalid,
    SettingsMisplaced,
    SettingsMissing,
)
from cohort_pipelines.orchestration.rules import siblings_in
from cohort_pipelines.orchestration.scaffolders import (
    ApptimizeScaffolder,
    MixpanelProjectScaffolder,
    TaplyticsScaffolder,
    WebhookScaffolder,
)

IdMerge = Literal["original", "simplified"]
SyncType = Literal["one_time", "dynamic", "recurring"]
Partner = Taplytics | CohortMessages | ReplacingMessages | CsvFile


def _days(_context: dg.ResolutionContext, value: object) -> object:
    return None if value is False or value == "off" else value  # YAML 1.1 reads a bare `off` as false


_SOME_DAYS = Annotated[float, Field(gt=0, le=366), NUMBER]
_OFF = Literal["off"] | Annotated[bool, Field(strict=True)]
Days = Annotated[_SOME_DAYS | None, dg.Resolver(_days, model_field_type=_SOME_DAYS | _OFF)]
Seconds = Annotated[float, Field(ge=0, le=86_400), NUMBER]

RESERVED_COLUMNS = frozenset(snapshot_schema(()).names) - {"distinct_id"}
_NOT_FOR_FILES = ("members", "reconcile_within", "apply_delay")
_AUTH_NEEDS = {
    "none": (),
    "basic": ("username", "secret"),
    "bearer": ("secret",),
    "header": ("parameter", "secret"),
    "query": ("parameter", "secret"),
}


class Connection(Declared, dg.ConfigurableResource):  # type: ignore[type-arg]  # resources of ours yield themselves
    """A connection is a resource under its own name."""

    def require_usable(self) -> None:
        """Refuse secrets that stand in the file, and URLs and headers that could not be sent.

        Raises:
            SecretInFile: a secret is not a reference to the environment.
            SettingInvalid: a URL is none, or a header's name cannot be one.
        """
        for field, info in type(self).model_fields.items():
            text = getattr(self, field)
            if SECRET in info.metadata and text and not environment.is_reference(text):
                raise SecretInFile(self.name, field, self.file)
        for field in ("url", "api_url", "header"):
            text = getattr(self, field, "")
            if problem := unusable(field, text):
                raise SettingInvalid(self.name, field, problem, self.file)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Offer the declaration to the assets as the resource of its name, unless its siblings contradict it."""
        if wrong := siblings_in(context.component_tree).unloadable_for(self):
            return wrong.build_defs(context)
        return dg.Definitions(resources={self.name: self})

    def value(self, field: str) -> str:
        """Look up the references in one of this connection's fields.

        Raises:
            VariableUnusable: the environment lacks one of them, or its value cannot be used.
        """
        return environment.resolve(getattr(self, field), wanted_for=f"the {type(self).__name__}'s {field}")


@dg.scaffold_with(MixpanelProjectScaffolder)
class MixpanelProject(Connection):
    """A Mixpanel project to read cohorts from, with a service account that is a project admin."""

    role: ClassVar[str] = "source"

    project_id: Id
    region: Literal["us", "eu", "in"] = "us"
    id_merge: IdMerge
    service_account: Secret
    secret: Secret
    queries_per_hour: Annotated[int, Field(ge=1, le=MOST), NUMBER] = 60
    workspace_id: Id | None = None
    max_page_bytes: Annotated[int, Field(ge=2**20, le=2**30), NUMBER] = MAX_PAGE_BYTES
    api_url: Reference = ""

    def project(self) -> Project:
        """Return the project with its credentials looked up.

        Raises:
            VariableUnusable: the environment lacks one of them, or its value cannot be used.
            SettingInvalid: its api_url is no URL.
        """
        if problem := unusable("api_url", self.value("api_url")):
            raise SettingInvalid(self.name or "The project", "api_url", problem, self.file)
        return Project(
            project_id=self.project_id,
            region=self.region,
            service_account=self.value("service_account"),
            secret=self.value("secret"),
            workspace_id=self.workspace_id,
            api_url=self.value("api_url") or None,
            max_page_bytes=self.max_page_bytes,
        )


class Destination(Connection):
    """A partner to deliver to."""

    role: ClassVar[str] = "destination"
    types: ClassVar[frozenset[SyncType]]
    partner_kind: ClassVar[str]

    account: Text = ""
    id_equality: Equality = "exact"
    reconcile_within: Days = 7
    apply_delay: Seconds = 0

    def terms(self) -> Terms:
        """Return what is true of this partner's targets; the baseline and the tolerance are each sync's own."""
        reconcile_within = None if self.reconcile_within is None else timedelta(days=self.reconcile_within)
        return Terms(self.id_equality, timedelta(seconds=self.apply_delay), reconcile_within)

    @property
    @abstractmethod
    def end(self) -> tuple[str, ...]:
        """What identifies the receiving end as far as it is known without the environment; keys are no part of it."""

    @property
    def names_cohorts(self) -> bool:
        """Whether its wire names the cohort beside the target, so that the partner may tell targets by it."""
        return False

    @property
    def files(self) -> bool:
        """Whether each target is a folder of its name."""
        return False

    @abstractmethod
    def partner(self, *, project_id: int = 0, cohort_id: int = 0) -> Partner:
        """Return the partner's wire with its credentials looked up; messages carry the project and cohort."""

    @abstractmethod
    def id_rule(self, id_merge: IdMerge) -> IdRule:
        """Say which id of a user this partner knows."""


@dg.scaffold_with(TaplyticsScaffolder)
class TaplyticsDestination(Destination):
    """A Taplytics project: a cohort becomes custom data, true for members, that a segment filters on."""

    types: ClassVar[frozenset[SyncType]] = frozenset({"one_time", "dynamic"})
    partner_kind: ClassVar[str] = "taplytics"

    api_key: Secret
    url: Reference = destinations.TAPLYTICS_URL
    header: Text = destinations.TAPLYTICS_HEADER
    concurrency: Annotated[int, Field(ge=1, le=1_000), NUMBER] = 32
    reconcile_within: Days = 30

    @property
    def end(self) -> tuple[str, ...]:
        """The host and the account's label: a key is rotated, and must not move a target."""
        return self.url, self.account

    def partner(self, *, project_id: int = 0, cohort_id: int = 0) -> Partner:  # noqa: ARG002  its wire names no cohort
        """Return the per-user wire."""
        return destinations.Taplytics(
            key=self.value("api_key"),
            url=self.value("url"),
            header=self.header,
            concurrency=self.concurrency,
            account=self.account,
        )

    def id_rule(self, id_merge: IdMerge) -> IdRule:  # noqa: ARG002  the same under both
        """Taplytics' userId is Mixpanel's distinct_id; that of a device, before login, is none."""
        return IdRule(exclude_device_ids=True)


@dg.scaffold_with(ApptimizeScaffolder)
class ApptimizeDestination(Destination):
    """An Apptimize account: a cohort becomes a group, by cohort messages to a URL or by files for the import."""

    types: ClassVar[frozenset[SyncType]] = frozenset({"one_time", "recurring"})
    partner_kind: ClassVar[str] = "apptimize"

    region: Literal["na", "eu"]
    delivery: Literal["http", "file"]
    url: Reference = ""
    token: Secret = ""
    header: Text = destinations.APPTIMIZE_HEADER
    id_key: Annotated[Text, Field(min_length=1)] = destinations.MEMBER_ID_KEY
    folder: Reference = ""
    prefix: Literal["", "keep", "strip"] = ""
    members: MembersMode = "add"

    def require_usable(self) -> None:
        """Require what the chosen way of delivery needs; refuse what it does not have."""
        super().require_usable()
        needed = ("url", "token") if self.delivery == "http" else ("folder", "prefix")
        missing = [field for field in needed if not getattr(self, field)]
        if missing:
            raise SettingsMissing(self.name, f"delivery: {self.delivery}", missing, self.file)
        fields = type(self).model_fields
        misplaced = [field for field in _NOT_FOR_FILES if getattr(self, field) != fields[field].default]
        if self.delivery == "file" and misplaced:
            raise SettingsMisplaced(self.name, "delivery: file", misplaced, self.file)

    def terms(self) -> Terms:
        """Return what is true of its targets; a published file is looked at in every window, not sent again."""
        return Terms(self.id_equality) if self.delivery == "file" else super().terms()

    @property
    def files(self) -> bool:
        """By file it is."""
        return self.delivery == "file"

    @property
    def names_cohorts(self) -> bool:
        """Messages do; a file is imported into the group that a person chooses."""
        return self.delivery == "http"

    @property
    def end(self) -> tuple[str, ...]:
        """The receiver's URL or the folder, the region and the account's label."""
        return self.url if self.delivery == "http" else self.folder, self.region, self.account

    def partner(self, *, project_id: int = 0, cohort_id: int = 0) -> Partner:
        """Return the wire of the chosen way of delivery."""
        if self.delivery == "file":
            return destinations.apptimize_file(folder=settings.local_path(self.value("folder")), region=self.region)
        receiver = destinations.apptimize_http(
            url=self.value("url"),
            token=self.value("token"),
            region=self.region,
            account=self.account,
            header=self.header,
            id_key=self.id_key,
            project_id=project_id,
            cohort_id=cohort_id,
        )
        return receiver if self.members == "add" else ReplacingMessages(receiver)

    def id_rule(self, id_merge: IdMerge) -> IdRule:
        """Match on `$apptimize_user_id`; on simplified ID merge on the `$user_id`.

        Source: Mixpanel's Apptimize page (docs/cohort-sync/integrations/apptimize.mdx).
        """
        if id_merge == "simplified":
            return IdRule(exclude_device_ids=True, compare_with="$apptimize_user_id")
        strip = "i_" if self.delivery == "file" and self.prefix == "strip" else None
        return IdRule(source="$apptimize_user_id", prefixes=("i_", "a_"), strip_prefix=strip)


@dg.scaffold_with(WebhookScaffolder)
class WebhookDestination(Destination):
    """Any receiver of Mixpanel's custom cohort webhook."""

    types: ClassVar[frozenset[SyncType]] = frozenset({"one_time", "dynamic", "recurring"})
    partner_kind: ClassVar[str] = "webhook"

    url: Reference
    auth: Literal["none", "basic", "bearer", "header", "query"] = "none"
    secret: Secret = ""
    username: Reference = ""
    parameter: Text = ""
    id_key: Annotated[Text, Field(min_length=1)] = destinations.MEMBER_ID_KEY
    match_on: Annotated[Text, Field(min_length=1)] = "distinct_id"
    members: MembersMode = "add"

    def require_usable(self) -> None:
        """Require what the chosen authentication needs."""
        super().require_usable()
        missing = [field for field in _AUTH_NEEDS[self.auth] if not getattr(self, field)]
        if missing:
            raise SettingsMissing(self.name, f"auth: {self.auth}", missing, self.file)
        if self.match_on in RESERVED_COLUMNS:
            raise PropertyReserved(self.name, self.match_on, self.file)

    @property
    def names_cohorts(self) -> bool:
        """Each message does."""
        return True

    @property
    def end(self) -> tuple[str, ...]:
        """The receiver's URL and the account's label."""
        return self.url, self.account

    def partner(self, *, project_id: int = 0, cohort_id: int = 0) -> Partner:
        """Return the message wire with the chosen authentication."""
        receiver = destinations.webhook(
            url=self.value("url"),
            auth=self.auth,
            secret=self.value("secret"),
            username=self.value("username"),
            name=self.parameter,
            account=self.account,
            id_key=self.id_key,
            project_id=project_id,
            cohort_id=cohort_id,
        )
        return receiver if self.members == "add" else ReplacingMessages(receiver)

    def id_rule(self, id_merge: IdMerge) -> IdRule:  # noqa: ARG002  the property is chosen by hand
        """Match on the distinct_id or on the profile property that was chosen."""
        return IdRule(source=self.match_on)


def unusable(field: str, text: str) -> str:
    """Return why ``text`` cannot be sent as a URL or a header's name; "" where that cannot be told yet."""
    if not text or "{{" in text:
        return ""
    try:
        checked_header("", text, "value") if field == "header" else checked_url("", text)
    except DestinationInvalid as error:
        return error.problem
    return ""


def target_named(partner: Partner, name: str) -> Target:
    """Return the target called ``name`` where ``partner`` ends, as the ledger knows it."""
    return Target(partner.wire, partner.host, partner.account, name)
