import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from dagster.components.component_scaffolding import scaffold_object

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.scaffold import init_project
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.rules import siblings_in

ORCHESTRATION = "cohort_pipelines.orchestration"
CONNECTIONS = {
    "MixpanelProject": "main_project",
    "TaplyticsDestination": "taplytics",
    "ApptimizeDestination": "apptimize",
    "WebhookDestination": "receiver",
}


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a package without declarations; its name is the test's, since Python imports each name once."""
    package = tmp_path / ("scaffolded_" + re.sub(r"\W", "_", request.node.name))
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    return package


def scaffold(package: Path, kind: str, name: str, *, into: str = "defs", form: str = "yaml", **params: object) -> str:
    """Do what `dg scaffold defs` does in its process, and return what it wrote."""
    folder = package / into / name
    scaffold_object(folder, f"{ORCHESTRATION}.{kind}", json.dumps(params) if params else None, form, package.parent)
    return (folder / "defs.yaml").read_text(encoding="utf-8")


def scaffold_all_connections(package: Path) -> None:
    for kind, name in CONNECTIONS.items():
        scaffold(package, kind, name)


def loaded(package: Path, sync: str) -> ResolvedSync:
    return {each.name: each for each in resolved_syncs(component_tree(package))}[sync]


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_a_connection_loads_as_it_is_written(package: Path, kind: str) -> None:
    text = scaffold(package, kind, CONNECTIONS[kind])

    assert set(project_definitions(package).resources or {}) == {CONNECTIONS[kind], "records"}
    assert re.search(r'"{{ env\.\w+ }}"', text)
    assert "#" in text


def test_every_attribute_that_stands_in_a_comment_can_be_switched_on(package: Path) -> None:
    for kind, name in CONNECTIONS.items():
        text = scaffold(package, kind, name)
        (package / "defs" / name / "defs.yaml").write_text(re.sub(r"(?m)^  # (\w+: )", r"  \1", text), encoding="utf-8")
    apptimize = package / "defs" / "apptimize" / "defs.yaml"
    text = apptimize.read_text(encoding="utf-8")
    apptimize.write_text(re.sub(r"(?m)^  (delivery: http|url:|token:).*\n", "", text), encoding="utf-8")
    text = scaffold(package, "CohortSync", "members", source="main_project", cohort_id=3)
    switched_on = re.sub(r"(?m)^  # (\w+: )", r"  \1", text)
    (package / "defs" / "members" / "defs.yaml").write_text(switched_on, encoding="utf-8")

    sync = loaded(package, "members")
    siblings = siblings_in(component_tree(package))
    assert (sync.anonymous_members, sync.owners) == ("skip", ("team:growth",))
    assert siblings.sources["main_project"].workspace_id == 1
    assert {name: destination.partner_kind for name, destination in siblings.destinations.items()} == {
        "taplytics": "taplytics",
        "apptimize": "apptimize",
        "receiver": "webhook",
    }


def test_a_sync_is_written_with_the_parameters_that_were_given(package: Path) -> None:
    scaffold_all_connections(package)
    target = 'Größe "XL" # 1: yes'

    text = scaffold(
        package,
        "CohortSync",
        "big_ones",
        source="main_project",
        destination="receiver",
        cohort_id=7,
        target=target,
        type="one_time",
    )

    sync = loaded(package, "big_ones")
    assert (sync.source, sync.destination, sync.cohort_id) == ("main_project", "receiver", 7)
    assert (sync.target, sync.type, sync.since) == (target, "one_time", None)
    assert "REPLACE" not in text


def test_a_sync_without_parameters_takes_what_the_project_declares(package: Path) -> None:
    scaffold_all_connections(package)

    with clock.shifted(datetime(2027, 3, 1, 12, tzinfo=UTC) - clock.now()):
        text = scaffold(package, "CohortSync", "beta_users")

    sync = loaded(package, "beta_users")
    assert (sync.source, sync.destination) == ("main_project", "apptimize")
    assert (sync.target, sync.type) == ("Beta Users", "recurring")
    assert str(sync.since) == "2027-03-01"
    assert "cohort_id: 0 # REPLACE" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "dynamic"}, ("receiver", "dynamic")),
        ({"destination": "taplytics"}, ("taplytics", "dynamic")),
        ({"destination": "apptimize"}, ("apptimize", "recurring")),
        ({"destination": "apptimize", "type": "one_time"}, ("apptimize", "one_time")),
    ],
)
def test_destination_and_type_fit_each_other(package: Path, given: dict[str, str], expected: tuple[str, str]) -> None:
    scaffold_all_connections(package)
    scaffold(package, "CohortSync", "beta_users", cohort_id=1, **given)

    sync = loaded(package, "beta_users")
    assert (sync.destination, sync.type) == expected


def test_declarations_in_other_folders_of_defs_are_found(package: Path) -> None:
    scaffold(package, "MixpanelProject", "shop", into="defs/connections")
    scaffold(package, "TaplyticsDestination", "app", into="defs/connections")

    scaffold(package, "CohortSync", "beta_users", into="defs/growth/syncs")

    sync = loaded(package, "beta_users")
    assert (sync.source, sync.destination) == ("shop", "app")


def test_a_project_without_connections_gets_placeholders_that_loading_names(package: Path) -> None:
    text = scaffold(package, "CohortSync", "beta_users")

    assert re.findall(r"REPLACE_\w+", text) == ["REPLACE_source", "REPLACE_destination"]
    [wrong] = siblings_in(component_tree(package)).unloadable
    assert "the source 'REPLACE_source', which no folder declares" in wrong.problem


def test_a_name_that_no_group_can_have_is_refused_and_leaves_nothing_behind(package: Path) -> None:
    with pytest.raises(click.UsageError, match="'Beta-Users' cannot be used"):
        scaffold(package, "CohortSync", "Beta-Users")

    assert not (package / "defs" / "Beta-Users").exists()


@pytest.mark.parametrize("kind", ["CohortSync", "MixpanelProject"])
def test_python_is_refused_and_leaves_nothing_behind(package: Path, kind: str) -> None:
    with pytest.raises(click.UsageError, match="declared in YAML"):
        scaffold(package, kind, "beta_users", form="python")

    assert not (package / "defs" / "beta_users").exists()


@pytest.mark.slow
def test_dg_scaffolds_and_checks_a_project_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "our-syncs"
    init_project(folder)

    def dg_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            ["dg", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    for kind, name in CONNECTIONS.items():
        scaffold(folder / "our_syncs", kind, f"our_{name}")
    through_dg = dg_command("scaffold", "defs", f"{ORCHESTRATION}.TaplyticsDestination", "second_app")
    assert through_dg.returncode == 0, through_dg.stderr
    given = {"source": "our_main_project", "destination": "second_app", "cohort-id": "12", "type": "dynamic"}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    through_dg = dg_command("scaffold", "defs", f"{ORCHESTRATION}.CohortSync", "vips", *options, "--target", "Our VIPs")
    assert through_dg.returncode == 0, through_dg.stderr

    checked = dg_command("check", "defs")
    assert (checked.returncode, checked.stderr) == (0, "")
    refused = dg_command("scaffold", "defs", f"{ORCHESTRATION}.CohortSync", "vips_too", "--format", "python")
    assert refused.returncode != 0
    assert "declared in YAML" in refused.stderr
