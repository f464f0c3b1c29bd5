"""What `dg scaffold defs` writes: a declaration with comments that loads, and says what is still to be filled in."""

from importlib.resources import files
from string import Template
from typing import Any, ClassVar, TypeVar

import click
import dagster as dg
from pydantic import BaseModel

from cohort_pipelines.orchestration.declared import USABLE_NAME

_TEMPLATES = files("cohort_pipelines.orchestration") / "templates"

Params = TypeVar("Params", bound=BaseModel)


class DeclarationScaffolder(dg.Scaffolder[Params]):
    """Writes ``template`` as the defs.yaml of a new folder."""

    template: ClassVar[str]

    def values(self, request: dg.ScaffoldRequest[Params]) -> dict[str, str]:  # noqa: ARG002  a connection has none
        """Return what the template's placeholders stand for, beside the type."""
        return {}

    def scaffold(self, request: dg.ScaffoldRequest[Params]) -> None:
        """Write the declaration.

        Raises:
            click.UsageError: the folder's name cannot be used, or Python was asked for.
        """
        folder = request.target_path
        if problem := _problem(request):
            folder.rmdir()  # dg has just made it, and would refuse the name the next time
            raise click.UsageError(problem)
        template = Template((_TEMPLATES / f"{self.template}.yaml").read_text(encoding="utf-8"))
        text = template.substitute(self.values(request), type=request.type_name, name=folder.name)
        (folder / "defs.yaml").write_text(text, encoding="utf-8")


class MixpanelProjectScaffolder(DeclarationScaffolder[Any]):
    """A Mixpanel project."""

    template = "mixpanel_project"


class TaplyticsScaffolder(DeclarationScaffolder[Any]):
    """A Taplytics project."""

    template = "taplytics_destination"


class ApptimizeScaffolder(DeclarationScaffolder[Any]):
    """An Apptimize account."""

    template = "apptimize_destination"


class WebhookScaffolder(DeclarationScaffolder[Any]):
    """A receiver of cohort messages."""

    template = "webhook_destination"


class AlertsScaffolder(DeclarationScaffolder[Any]):
    """Who is told how the syncs fare."""

    template = "alerts"


def _problem(request: dg.ScaffoldRequest[Any]) -> str:
    name = request.target_path.name
    if request.scaffold_format != "yaml":
        return "Connections and syncs are declared in YAML. Nothing was written. Leave out --format python."
    if not USABLE_NAME.fullmatch(name):
        return (
            f"The name {name!r} cannot be used. Nothing was written. A folder's name becomes the name of assets and "
            "groups: use a-z, 0-9 and _ only."
        )
    return ""
