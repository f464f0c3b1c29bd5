from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import dagster as dg
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_pipelines.core import settings
from cohort_pipelines.core.errors import LedgerUnusable
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.replacing import ReplacingMessages
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines.orchestration import CohortSync, project_definitions
from cohort_pipelines.orchestration.connections import Destination
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines.orchestration.rules import siblings_in

PROJECT = """
    type: cohort_pipelines.orchestration.MixpanelProject
    attributes:
      {project_id: 7, id_merge: original, service_account: "{{ env.UNSET_ACCOUNT }}", secret: "{{ env.UNSET_SECRET }}"}
"""
TAPLYTICS = """
    type: cohort_pipelines.orchestration.TaplyticsDestination
    attributes: {api_key: "{{ env.UNSET_KEY }}"}
"""
APPTIMIZE = """
    type: cohort_pipelines.orchestration.ApptimizeDestination
    attributes: {region: na, delivery: http, url: "{{ env.UNSET_URL }}", token: "{{ env.UNSET_TOKEN }}"}
"""
DYNAMIC = """
    type: cohort_pipelines.orchestration.CohortSync
    attributes:
      {source: main, cohort_id: 1, destination: taplytics, target: Beta, type: dynamic, since: 2026-11-01}
"""
RECURRING = """
    type: cohort_pipelines.orchestration.CohortSync
    attributes:
      {source: main, cohort_id: 1, destination: apptimize, target: Beta, type: recurring, since: 2026-11-01}
"""
SOUND = {"main": PROJECT, "taplytics": TAPLYTICS, "apptimize": APPTIMIZE, "first": DYNAMIC, "second": RECURRING}

Load = Callable[[dict[str, str]], dg.Definitions]


def recurring(number: int) -> str:
    """Return the declaration of one of several syncs of that kind."""
    return RECURRING.replace("Beta", f"Beta {number}").replace("cohort_id: 1", f"cohort_id: {number}")


@pytest.fixture
def load(tmp_path: Path, request: pytest.FixtureRequest) -> Load:
    def load(documents: dict[str, str]) -> dg.Definitions:
        name = "declared_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
        return load_in(tmp_path / f"{name}_{len(list(tmp_path.iterdir()))}", documents)

    return load


def load_in(package: Path, documents: dict[str, str]) -> dg.Definitions:
    """Write ``documents`` into a package's folders and load it."""
    for folder, text in documents.items():
        (package / "defs" / folder).mkdir(parents=True)
        (package / "defs" / folder / "defs.yaml").write_text(dedent(text), encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    return project_definitions(package)


def problems(defs: dg.Definitions) -> dict[str, str]:
    """Return what the assets say that stand in the place of wrong declarations, by the declarations' names."""
    specs = defs.resolve_all_asset_specs()
    return {spec.key.path[0]: spec.description or "" for spec in specs if spec.key.path[-1] == "declaration"}


def refusal(load: Load, documents: dict[str, str]) -> str:
    found = problems(load(documents))
    assert found, "nothing was refused"
    return "\n".join(found.values())


def test_sound_declarations_load_without_a_single_environment_variable(load: Load) -> None:
    defs = load(SOUND)

    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    stages = ("cohort_snapshot", "identified_users", "partner_payload", "destination_upload")
    assert keys == {f"{sync}/{stage}" for sync in ("first", "second") for stage in stages}


@pytest.mark.parametrize("sibling", ["first", "second"])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("source: main", "source: nowhere", "names the source 'nowhere'"),
        ("destination: ", "destination: no_", "names the destination"),
        (", since: 2026-11-01", "", "has no `since`"),
    ],
)
def test_a_broken_sibling_is_named(load: Load, sibling: str, old: str, new: str, says: str) -> None:
    message = refusal(load, {**SOUND, sibling: SOUND[sibling].replace(old, new)})

    assert says in message
    assert f"defs/{sibling}/defs.yaml" in message


@pytest.mark.parametrize(
    ("sibling", "wrong", "right"), [("first", "dynamic", "recurring"), ("second", "recurring", "dynamic")]
)
def test_a_type_that_the_partner_does_not_have(load: Load, sibling: str, wrong: str, right: str) -> None:
    message = refusal(load, {**SOUND, sibling: SOUND[sibling].replace(wrong, right)})

    assert f"is {right}, which" in message
    assert f"defs/{sibling}/defs.yaml" in message


def test_a_wrong_declaration_leaves_the_others_as_they_are(load: Load) -> None:
    defs = load({**SOUND, "second": RECURRING.replace("cohort_id: 1", "cohort_id: 1, cohrt: 2")})

    groups = {spec.key.path[0] for spec in defs.resolve_all_asset_specs() if spec.key.path[-1] == "destination_upload"}
    assert groups == {"first"}
    assert {*problems(defs)} == {"second"}
    assert [schedule.name for schedule in defs.schedules or []] == ["dynamic_syncs", "freshness"]


DOUBLED = """
    type: cohort_pipelines.orchestration.CohortSync
    attributes:
      source: main
      cohort_id: 1
      <<: [{destination: taplytics}, {owners: ["team:growth"]}]
      target: Beta
      type: dynamic
      since: 2026-11-01
      gates: {min_users: 1}
      MORE
"""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("cohort_id: 2", "The key 'cohort_id' stands twice, in lines 5 and 11"),
        ('"target": Gamma', "The key 'target' stands twice, in lines 7 and 11"),
        (
            "anonymous_members: fetch\n    attributes: {source: main}",
            "The key 'attributes' stands twice, in lines 3 and 12",
        ),
        ("<<: {owners: []}", "The key '<<' stands twice, in lines 6 and 11"),
        ("initial_members: empty\n    ---\n    type: a.B\n    type: a.C", "cannot be read: "),
    ],
)
def test_a_doubled_key_names_file_key_and_both_lines(load: Load, more: str, says: str) -> None:
    message = refusal(load, {**SOUND, "first": DOUBLED.replace("MORE", more)})

    assert says in message
    assert "defs/first/defs.yaml" in message


def test_a_doubled_key_is_found_in_the_document_that_it_stands_in(load: Load) -> None:
    beside = dedent(PROJECT).replace("project_id: 7", "project_id: 8") + "---" + dedent(DOUBLED.replace("MORE", ""))

    assert problems(load({**SOUND, "first": beside})) == {}
    [(name, message)] = problems(
        load({**SOUND, "first": beside.replace("target: Beta", "target: B\n  target: C")})
    ).items()
    assert (name, message.partition(" (")[0]) == ("first", "The key 'target' stands twice, in lines 11 and 12")


def test_a_merged_mapping_is_no_doubled_key(load: Load) -> None:
    assert problems(load({**SOUND, "first": DOUBLED.replace("MORE", "")})) == {}


def test_two_folders_of_one_name_are_both_refused(load: Load) -> None:
    found = problems(
        load({**SOUND, "growth/third": DYNAMIC.replace("Beta", "C"), "sales/third": DYNAMIC.replace("Beta", "D")})
    )

    assert {*found} == {"growth", "sales"}
    assert all("The name 'third' is declared twice" in message for message in found.values())


def test_editors_and_dg_are_given_the_strict_schema() -> None:
    schema = CohortSync.get_model_cls().model_json_schema()

    assert schema["additionalProperties"] is False
    assert "cohort_id" in schema["required"]


@pytest.mark.parametrize("sibling", ["first", "second"])
def test_an_unknown_key_names_the_file(load: Load, sibling: str) -> None:
    message = refusal(load, {**SOUND, sibling: SOUND[sibling].replace("cohort_id: 1", "cohort_id: 1, cohrt: 2")})

    assert "cohrt" in message
    assert f"{sibling}/defs.yaml" in message


def test_two_syncs_for_one_target_names_both_files(load: Load) -> None:
    message = refusal(load, {**SOUND, "third": RECURRING.replace("cohort_id: 1", "cohort_id: 2")})

    assert "second and third both deliver to 'Beta' of apptimize" in message
    assert "defs/second/defs.yaml" in message
    assert "defs/third/defs.yaml" in message


def test_a_cohort_that_is_sent_twice_to_a_receiver_of_messages_names_both_files(load: Load) -> None:
    twice = {**SOUND, "third": RECURRING.replace("Beta", "Gamma")}
    message = refusal(load, twice)

    assert "second and third send the cohort 1 to apptimize" in message
    assert "defs/second/defs.yaml" in message
    assert "defs/third/defs.yaml" in message

    labelled = APPTIMIZE.replace("{region: na", "{account: by_name, region: na")
    assert load({**twice, "third": twice["third"].replace("apptimize", "other"), "other": labelled})
    assert load({**SOUND, "third": DYNAMIC.replace("Beta", "Gamma")})  # a field is told by its name


def test_a_budget_that_cannot_carry_the_cadences(load: Load) -> None:
    thirteen = {f"sync_{n}": recurring(n) for n in range(13)}

    message = refusal(load, {"main": PROJECT, "apptimize": APPTIMIZE, **thirteen})

    assert "need 52 queries an hour, and 48 of its 60" in message
    assert "defs/main/defs.yaml" in message
    assert "defs/sync_12/defs.yaml" in message


def test_twelve_recurring_syncs_fit_the_budget(load: Load) -> None:
    twelve = {f"sync_{n}": recurring(n) for n in range(12)}

    assert len(load({"main": PROJECT, "apptimize": APPTIMIZE, **twelve}).resolve_all_asset_specs()) == 48


def test_a_secret_written_into_the_file_is_refused_without_repeating_it(load: Load) -> None:
    documents = {**SOUND, "taplytics": TAPLYTICS.replace("{{ env.UNSET_KEY }}", "s3cr3t-k3y")}

    said = refusal(load, documents)
    assert "taplytics's api_key must be a reference to an environment variable" in said
    assert "s3cr3t-k3y" not in said


def test_apptimize_by_file_needs_folder_and_prefix(load: Load) -> None:
    by_file = APPTIMIZE.replace("delivery: http", "delivery: file")

    assert "lacks folder and prefix" in refusal(load, {**SOUND, "apptimize": by_file})


def test_a_folder_name_that_no_group_can_have(load: Load) -> None:
    documents = {("Second-Sync" if name == "second" else name): text for name, text in SOUND.items()}

    assert "'Second-Sync' cannot be used" in refusal(load, documents)


@pytest.mark.parametrize("name", ["2024_app", "_app", "class", "records", "io_manager", "type", "a" * 101])
def test_a_folder_name_that_no_resource_can_have(load: Load, name: str) -> None:
    assert f"'{name}' cannot be used" in refusal(load, {**SOUND, name: TAPLYTICS.replace("{api", "{account: x, api")})


FOLDERS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize("folders", [("a b",), ("bêta",), ("My Team/beta",), ("a-b", "a_b"), ("a.b", 'a"b*')])
def test_a_broken_declaration_stops_no_other_whatever_its_folder_is_called(
    load: Load, folders: tuple[str, ...]
) -> None:
    defs = load({**SOUND, **dict.fromkeys(folders, "type: [")})

    assert {*problems(defs)} == {folder.partition("/")[0] for folder in folders}
    assert defs.resolve_job_def("dynamic_syncs")


@hypothesis.settings(max_examples=25, deadline=None)
@given(st.sets(FOLDERS.filter(lambda name: name not in {".", "..", *SOUND}), max_size=3))
def test_no_folder_s_name_stops_the_others(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    package = tmp_path_factory.mktemp("named") / f"named_{uuid4().hex}"

    defs = load_in(package, {**SOUND, **dict.fromkeys(sorted(names), "type: [")})

    assert defs.get_repository_def().has_job("recurring_syncs")


def test_two_views_of_a_project_share_its_budget(load: Load) -> None:
    syncs = {f"sync_{n}": recurring(n) for n in range(13)}
    syncs["sync_0"] = syncs["sync_0"].replace("source: main", "source: other")

    message = refusal(load, {"main": PROJECT, "other": PROJECT, "apptimize": APPTIMIZE, **syncs})

    assert "Mixpanel project 7 need 52 queries an hour" in message
    assert "defs/other/defs.yaml" in message


def test_two_accounts_that_cannot_be_told_apart_need_a_label(load: Load) -> None:
    message = refusal(load, {**SOUND, "staging": TAPLYTICS.replace("UNSET_KEY", "OTHER_KEY")})

    assert "staging and taplytics deliver to the same place" in message
    assert "defs/staging/defs.yaml" in message
    labelled = TAPLYTICS.replace('"{{ env.UNSET_KEY }}"', '"{{ env.OTHER_KEY }}", account: staging')
    assert load({**SOUND, "staging": labelled})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type: dynamic", "type: dynamic, gates: {max_shrink: 50}"),
        ("type: dynamic", "type: dynamic, gates: {min_users: -1}"),
        ("type: dynamic", "type: dynamic, gates: {max_growth: -0.1}"),
        ("type: dynamic", "type: dynamic, gates: {max_churn: -0.1}"),
        ("type: dynamic", "type: dynamic, gates: {min_identified_share: 2}"),
        ("type: dynamic", "type: dynamic, gates: {min_mapped_share: 1.1}"),
        ("type: dynamic", "type: dynamic, rejection_tolerance: -1"),
        ("type: dynamic", 'type: dynamic, initial_members: ""'),
        ("target: Beta", 'target: ""'),
    ],
)
def test_a_value_that_would_switch_a_promise_off_is_refused(load: Load, old: str, new: str) -> None:
    message = refusal(load, {**SOUND, "first": DYNAMIC.replace(old, new)})

    assert "first/defs.yaml" in message


WEBHOOK = """
    type: cohort_pipelines.orchestration.WebhookDestination
    attributes: {url: "https://receiver.example/hook", AUTH}
"""


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ("auth: basic", "hook lacks username and secret"),
        ("auth: query, secret: '{{ env.UNSET }}'", "hook lacks parameter"),
        ("auth: bearer", "hook lacks secret"),
        ("match_on: page", "cannot match on a property called 'page'"),
    ],
)
def test_a_webhook_that_cannot_work_is_refused(load: Load, attributes: str, says: str) -> None:
    assert says in refusal(load, {**SOUND, "hook": WEBHOOK.replace("AUTH", attributes)})


def destination(load: Load, text: str, **changes: str) -> Destination:
    for old, new in changes.items():
        text = text.replace(old, new)
    defs = load({"described": text})
    declared = (defs.resources or {})["described"]
    assert isinstance(declared, Destination)
    return declared


PLAIN = WEBHOOK.replace("AUTH", "account: other, SETTINGS")
BY_HTTP = APPTIMIZE.replace("region: na", "region: eu, SETTINGS")
BY_FILE = """
    type: cohort_pipelines.orchestration.ApptimizeDestination
    attributes: {region: na, delivery: file, folder: exports, prefix: keep, SETTINGS}
"""
PER_USER = TAPLYTICS.replace("api_key", "account: other, SETTINGS, api_key")
TERMS = "id_equality: casefold, reconcile_within: 2, apply_delay: 90"


@pytest.mark.parametrize(
    ("text", "settings", "terms"),
    [
        (PLAIN, "parameter: x", Terms(reconcile_within=timedelta(days=7))),
        (BY_HTTP, "id_key: x", Terms(reconcile_within=timedelta(days=7))),
        (PER_USER, "header: x", Terms(reconcile_within=timedelta(days=30))),
        (BY_FILE, "account: x", Terms()),
        (PLAIN, "reconcile_within: off", Terms()),
        (PLAIN, 'reconcile_within: "off"', Terms()),
        (PLAIN, "reconcile_within: 0.5", Terms(reconcile_within=timedelta(hours=12))),
        (BY_FILE, "id_equality: nfc", Terms(id_equality="nfc")),
        *(
            (text, TERMS, Terms("casefold", timedelta(seconds=90), timedelta(days=2)))
            for text in (PLAIN, BY_HTTP, PER_USER)
        ),
    ],
)
def test_a_destination_names_the_terms_of_its_targets(load: Load, text: str, settings: str, terms: Terms) -> None:
    assert destination(load, text, SETTINGS=settings).terms() == terms


@pytest.mark.parametrize(
    "wrong",
    [
        "reconcile_within: 0",
        "reconcile_within: -1",
        "reconcile_within: 400",
        "reconcile_within: on",
        "reconcile_within: never",
        "apply_delay: -1",
        "apply_delay: 1000000",
        "id_equality: lower",
        "members: replace",
    ],
)
def test_terms_that_mean_nothing_are_refused(load: Load, wrong: str) -> None:
    message = refusal(load, {"hook": PLAIN.replace("SETTINGS", wrong)})

    assert "defs/hook/defs.yaml" in message
    assert wrong.partition(":")[0] in message


@pytest.mark.parametrize("text", [PLAIN, BY_HTTP])
@pytest.mark.parametrize(("members", "wire"), [("add", CohortMessages), ("replace_session", ReplacingMessages)])
def test_messages_go_to_a_receiver_that_adds_or_replaces(
    load: Load, monkeypatch: pytest.MonkeyPatch, text: str, members: str, wire: type
) -> None:
    monkeypatch.setenv("UNSET_URL", "https://receiver.example/hook")
    monkeypatch.setenv("UNSET_TOKEN", "t")
    assert isinstance(destination(load, text, SETTINGS=f"members: {members}").partner(), wire)


@pytest.mark.parametrize("setting", ["members: replace_session", "reconcile_within: 3", "apply_delay: 60"])
def test_a_file_has_no_terms_of_messages(load: Load, setting: str) -> None:
    message = refusal(load, {"files": BY_FILE.replace("SETTINGS", setting)})

    assert f"files sets {setting.partition(':')[0]}" in message
    assert "`delivery: file` has no such setting" in message


def test_taplytics_takes_no_members_setting(load: Load) -> None:
    assert "members" in refusal(load, {"hook": PER_USER.replace("SETTINGS", "members: add")})


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({settings.DATA: "s3://bucket/data"}, "it is a file of one host, and the history lies on s3"),
        ({settings.LEDGER: "mysql://host/ledger"}, "a ledger is kept in a SQLite file or in PostgreSQL"),
    ],
)
def test_a_ledger_that_cannot_be_kept_there_is_refused_at_load(
    load: Load, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name in (settings.DATA, settings.LEDGER):
        monkeypatch.setenv(name, variables.get(name, ""))
    with pytest.raises(LedgerUnusable, match=says):
        load(SOUND)


def test_a_remote_history_with_postgresql_loads_without_asking_either(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.DATA, "s3://bucket/data")
    monkeypatch.setenv(settings.LEDGER, "postgresql://user@192.0.2.1/ledger")  # where nothing answers
    assert load(SOUND).resolve_schedule_def("dynamic_syncs").name == "dynamic_syncs"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cohort_id: 1,", f"cohort_id: {10**30},", "cohort_id: "),
        ("cohort_id: 1,", "cohort_id: -1,", "cohort_id: "),
        ("cohort_id: 1,", "cohort_id: true,", "a number is needed, without quotes"),
        ("cohort_id: 1,", "cohort_id: '29',", "a number is needed, without quotes"),
        ("type: dynamic", "type: dynamic, gates: {max_shrink: true}", "gates.max_shrink: "),
        ("type: dynamic", "type: dynamic, gates: {min_users: false}", "gates.min_users: "),
        ("type: dynamic", f"type: dynamic, rejection_tolerance: {10**40}", "rejection_tolerance: "),
        ("type: dynamic", "type: dynamic, gates: {max_churn: .inf}", "gates.max_churn: "),
        ("type: dynamic", "type: dynamic, gates: {max_growth: .nan}", "gates.max_growth: "),
        ("2026-11-01", "1969-01-01", "since: "),
        ("2026-11-01", "9999-12-31", "since: "),
        ("type: dynamic", "type: dynamic, link: 'javascript:alert(1)'", "link is no web address"),
        ("target: Beta", 'target: "Be\\0ta"', "target: "),
        ("target: Beta", 'target: "Be\\nta"', "target: "),
        ("type: dynamic", 'type: dynamic, owners: ["nobody at all"]', "owner"),
    ],
)
def test_a_value_that_nothing_could_hold_is_refused(load: Load, old: str, new: str, says: str) -> None:
    assert says in refusal(load, {**SOUND, "first": DYNAMIC.replace(old, new)})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("main", PROJECT.replace("project_id: 7", "api_url: proxy.example, project_id: 7"), "main's api_url cannot be"),
        ("main", PROJECT.replace("project_id: 7", "api_url: 'https://a:b@c.example', project_id: 7"), "main's api_url"),
        ("main", PROJECT.replace("project_id: 7", f"project_id: {10**20}"), "project_id: "),
        (
            "hook",
            PLAIN.replace("https://receiver", "receiver").replace("SETTINGS", "id_key: x"),
            "hook's url cannot be",
        ),
        ("hook", PER_USER.replace("SETTINGS", "header: 'a b'"), "hook's header cannot be used"),
        ("hook", PER_USER.replace("SETTINGS", f"concurrency: {10**9}"), "concurrency: "),
        ("hook", PLAIN.replace("SETTINGS", 'match_on: "a\\0b"'), "match_on: "),
    ],
)
def test_a_setting_that_could_not_be_sent_is_refused(load: Load, name: str, text: str, says: str) -> None:
    assert says in refusal(load, {**SOUND, name: text})


def test_a_target_that_no_folder_could_be_called_is_refused_for_files(load: Load) -> None:
    files = {**SOUND, "apptimize": BY_FILE.replace("SETTINGS", "account: x")}

    fits, too_long = (SOUND["second"].replace("Beta", "ß" * letters) for letters in (42, 43))
    assert problems(load({**files, "second": fits})) == {}
    assert "The target of second is too long" in refusal(load, {**files, "second": too_long})


@pytest.mark.parametrize("text", ["'plan'", "160000", "1e3", "[a]", "o'b\"r;--", "None", "a # b"])
def test_text_is_kept_as_it_is_written(load: Load, text: str) -> None:
    quoted = text.replace('"', '\\"')
    target = DYNAMIC.replace("target: Beta", f'target: "{quoted}"')
    hook = PLAIN.replace("SETTINGS", f'match_on: "{quoted}"')

    defs = load(SOUND | {"first": target, "hook": hook})

    assert problems(defs) == {}
    upload = defs.resolve_assets_def(dg.AssetKey(["first", "destination_upload"]))
    assert (upload.specs_by_key[upload.key].description or "").startswith(f"{text!r} in taplytics")
    assert destination(load, hook).id_rule("simplified").source == text


def test_text_may_hold_a_template(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATCHED_PROPERTY", "plan")

    assert destination(load, PLAIN, SETTINGS="match_on: \"{{ env('MATCHED_PROPERTY') }}\"").id_rule(
        "original"
    ).source == ("plan")


@pytest.mark.parametrize(
    ("declared", "path"),
    [("here.csv", "/srv/p/here.csv"), ("~/here.csv", "/home/op/here.csv"), ("/else/where", "/else/where")],
)
def test_declared_paths_lie_in_the_project_or_the_home_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str, path: str
) -> None:
    monkeypatch.setattr(settings, "_entered", [Path("/srv/p")])
    monkeypatch.setenv("HOME", "/home/op")

    load({**SOUND, "first": DYNAMIC.replace("Beta", f'Beta, initial_members: "{declared}"')})

    [package] = tmp_path.iterdir()
    baselines = {sync.name: sync.terms.initial_members for sync in resolved_syncs(component_tree(package))}
    assert baselines == {"first": path, "second": "unknown"}
    assert destination(load, BY_FILE, SETTINGS="account: x", exports=declared).partner().account == path


def test_a_declaration_that_is_a_link_to_nothing_is_left_out_by_name(load: Load, tmp_path: Path) -> None:
    load(SOUND)
    [package] = tmp_path.iterdir()
    (package / "defs" / "third").mkdir()
    (package / "defs" / "third" / "defs.yaml").symlink_to(tmp_path / "gone.yaml")

    assert {*problems(project_definitions(package))} == {"third"}


def test_a_file_of_initial_members_in_a_home_folder_that_is_not_there_stops_no_other(load: Load) -> None:
    found = problems(load({**SOUND, "first": DYNAMIC.replace("Beta", "Beta, initial_members: ~nobody_such/x.csv")}))

    assert {*found} == {"first"}
    assert "there is no such home folder" in found["first"]


def test_a_file_of_unknown_kind_does_not_take_the_name_of_a_sync(load: Load, tmp_path: Path) -> None:
    load({**SOUND, "sub/first": "type: [", "sub/main": "type: ["})
    [package] = tmp_path.iterdir()
    siblings = siblings_in(component_tree(package))

    assert {*siblings.syncs} == {"first", "second"}
    assert {*siblings.unloadable_syncs} == {f"{package.name}/defs/sub/first/defs.yaml", "main"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("apptimize", APPTIMIZE.replace("{region", "{account: 5, region"), "wrongly: account: input should be a valid"),
        (
            "apptimize",
            APPTIMIZE.replace('"{{ env.UNSET_URL }}"', "5"),
            "wrongly: url: input should be a valid",
        ),
        ("first", DYNAMIC.replace("Beta", '"{{ env.UNSET_NAME }}"'), "variable UNSET_NAME is not set"),
        ("first", DYNAMIC.replace("Beta", '"Beta {{ env.UNSET_NAME }}"'), "variable UNSET_NAME is not set"),
        ("first", "[a]", "cannot be read: the document: "),
        ("first", DYNAMIC + "      - a: [", "cannot be read: the file is no YAML"),
        (
            "first",
            f"{dedent(DYNAMIC)}post_processing: {{assets: [{{attributes: {{nope: 1}}}}]}}",
            "cannot be read: post_processing.assets.0.attributes.nope: there is no such attribute (",
        ),
        (
            "main",
            f"{dedent(PROJECT)}post_processing: {{assets: [{{attributes: {{description: x}}}}]}}",
            "post_processing of main is wrong: it has no assets",
        ),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_file(load: Load, name: str, text: str, says: str) -> None:
    assert says in problems(load({**SOUND, name: text}))[name]


def test_names_of_digits_are_names(load: Load) -> None:
    alerts = """
        type: cohort_pipelines.orchestration.Alerts
        attributes: {webhook: "{{ env.UNSET_HOOK }}", syncs: ["2024"]}
    """
    assert problems(load({**SOUND, "2024": recurring(2), "on_call": alerts})) == {}
    assert "names the source '2024'" in refusal(load, {**SOUND, "first": DYNAMIC.replace("main", '"2024"')})
    assert "names the destination '2024'" in refusal(load, {**SOUND, "first": DYNAMIC.replace("taplytics", '"2024"')})


def test_a_view_that_no_scheduled_sync_uses_is_no_part_of_the_budget(load: Load) -> None:
    idle = PROJECT.replace("project_id: 7", "queries_per_hour: 1, project_id: 7")

    assert problems(load({**SOUND, "idle": idle})) == {}


@pytest.mark.parametrize("more", ["template_vars_module: .nowhere", "post_processing: {assets: [{target: 7}]}"])
def test_what_dagster_cannot_look_up_beside_the_attributes_stops_no_other(load: Load, more: str) -> None:
    assert {*problems(load({**SOUND, "first": f"{dedent(DYNAMIC)}\n{more}\n"}))} == {"first"}


@pytest.mark.parametrize(
    ("post_processing", "said"),
    [
        ("{assets: [{attributes: {owners: [nobody]}}]}", "owner"),
        ("{assets: [{attributes: {group_name: 'no group'}}]}", "group"),
        ("{assets: [{target: 'key:(', attributes: {description: x}}]}", "key:("),
        ("{assets: [{attributes: {description: '{{ asset.no_such_thing.of_it }}'}}]}", "no_such_thing"),
        (
            "{assets: [{target: '*', attributes: {partitions_def: {type: static, partition_keys: [x]}}}]}",
            "the keys and partitions of a sync's assets cannot be changed",
        ),
    ],
)
def test_post_processing_that_cannot_be_applied_stops_no_other(load: Load, post_processing: str, said: str) -> None:
    found = problems(load({**SOUND, "first": f"{dedent(DYNAMIC)}\npost_processing: {post_processing}\n"}))

    assert {*found} == {"first"}
    assert "post_processing of first is wrong" in found["first"]
    assert said in found["first"]


def test_post_processing_is_applied(load: Load) -> None:
    kept = "post_processing: {assets: [{target: 'key:first/destination_upload', attributes: {owners: [team:data]}}]}"
    defs = load({**SOUND, "first": f"{dedent(DYNAMIC)}\n{kept}\n"})

    owners = {spec.key.path[-1]: spec.owners for spec in defs.resolve_all_asset_specs() if spec.key.path[0] == "first"}
    assert [name for name, of in owners.items() if list(of) == ["team:data"]] == ["destination_upload"]
