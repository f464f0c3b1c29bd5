"""What `dg scaffold defs` writes for a sync: the parameters that were given, for others what fits the project."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration.connections import (
    ApptimizeDestination,
    Destination,
    MixpanelProject,
    SyncType,
    TaplyticsDestination,
    WebhookDestination,
)
from cohort_pipelines.orchestration.partitions import CADENCES
from cohort_pipelines.orchestration.scaffolders import DeclarationScaffolder

_DECLARED_TYPE = re.compile(r"^type:\s*cohort_pipelines\.orchestration\.(\w+)", re.MULTILINE)
_DESTINATIONS: Mapping[str, type[Destination]] = {
    kind.__name__: kind for kind in (TaplyticsDestination, ApptimizeDestination, WebhookDestination)
}
_NO_COHORT = "0 # REPLACE: the number at the end of the cohort's address in Mixpanel"
_WHEN = {
    "one_time": "Once, whenever a partition is added by hand and materialized.",
    "dynamic": "Every two hours.",
    "recurring": "Every 15 minutes.",
}


class SyncParams(dg.Model):
    """What a new sync is about; all of it can be filled in afterwards."""

    source: str | None = None
    destination: str | None = None
    cohort_id: int = 0
    target: str | None = None
    type: SyncType | None = None


class SyncScaffolder(DeclarationScaffolder[SyncParams]):
    """A sync: by default from the first source to the first destination, as often as its partner is served."""

    template = "cohort_sync"

    @classmethod
    def get_scaffold_params(cls) -> type[SyncParams]:
        """Return the options of `dg scaffold defs`."""
        return SyncParams

    def values(self, request: dg.ScaffoldRequest[SyncParams]) -> dict[str, str]:
        """Return the parameters, and what fits the project where there are none."""
        params, siblings = request.params, _declared_beside(request.target_path)
        sources = (name for name, kind in siblings.items() if kind == MixpanelProject.__name__)
        destinations = {name: _DESTINATIONS[kind] for name, kind in siblings.items() if kind in _DESTINATIONS}
        fitting = (name for name, kind in destinations.items() if params.type in {None, *kind.types})
        destination = params.destination or next(fitting, "REPLACE_destination")
        sync_type = params.type or _usual_type(destinations.get(destination, TaplyticsDestination))
        return {
            "source": _quoted(params.source or next(sources, "REPLACE_source")),
            "cohort_id": str(params.cohort_id or _NO_COHORT),
            "destination": _quoted(destination),
            "target": _quoted(params.target or request.target_path.name.replace("_", " ").title()),
            "sync_type": sync_type,
            "since": f"  since: {clock.now():%Y-%m-%d} # the first window\n" if sync_type in CADENCES else "",
            "when": _WHEN[sync_type],
        }


def _declared_beside(folder: Path) -> dict[str, str]:
    """Return the class that each declaration around ``folder`` names, by its own name, in alphabetical order."""
    home = next((parent for parent in folder.parents if parent.name == "defs"), folder.parent)
    texts = {file.parent.name: file.read_text(encoding="utf-8") for file in home.rglob("defs.yaml")}
    kinds = {name: _DECLARED_TYPE.search(text) for name, text in sorted(texts.items())}
    return {name: kind[1] for name, kind in kinds.items() if kind}


def _usual_type(destination: type[Destination]) -> SyncType:
    return next(name for name in CADENCES if name in destination.types)


def _quoted(text: str) -> str:
    """Return ``text`` as YAML, which takes JSON's way of quoting."""
    return json.dumps(text, ensure_ascii=False)
