"""Stand-ins that belong to a data folder: they come back as they were left there, at the same ports."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

import msgspec

from cohort_pipelines.core.disk import make_private
from cohort_pipelines.core.environment import differing_from, file_values
from cohort_pipelines.core.errors import ProjectFolderInvalid
from cohort_pipelines.devtools.standins.settings import Addresses, Settings

FOLDER = "standins"  # in the data folder; only a demo's data has it


def kept_settings(data: Path, *, members: int = 10_000) -> Settings:
    """Return the settings of the stand-ins that ``data`` belongs to, or those of new ones with ``members``."""
    home = data.absolute() / FOLDER
    make_private(home)
    kept = home / "settings.json"
    known = msgspec.json.decode(kept.read_bytes(), type=Settings) if kept.exists() else Settings(members=members)
    return replace(known, state_file=str(home / "state"))


def keep(data: Path, settings: Settings, addresses: Addresses) -> None:
    """Remember ``settings`` in ``data``, with the ports where the stand-ins now listen, and how to reach them."""
    ports = {
        "mixpanel_port": urlsplit(addresses.mixpanel_url).port,
        "taplytics_port": urlsplit(addresses.taplytics_url).port,
        "apptimize_port": urlsplit(addresses.apptimize_url).port,
    }
    (data / FOLDER / "settings.json").write_text(json.dumps(asdict(settings) | ports), encoding="utf-8")
    lines = (f"export {name}={quote(value)}\n" for name, value in addresses.environment().items())
    environment_file(data).write_text("".join(lines), encoding="utf-8")


def environment_file(data: Path) -> Path:
    """Return the file of shell commands that set the variables by which the demo's declarations find the stand-ins."""
    return data / FOLDER / "environment.sh"


def require_unset(folder: Path, variables: Mapping[str, str]) -> None:
    """Refuse a .env in ``folder`` that would win over the ``variables`` which lead to the stand-ins.

    Raises:
        ProjectFolderInvalid: it sets one of them to something else.
    """
    if differing := differing_from(file_values(folder), variables):
        problem = f"its .env leads elsewhere than to the stand-ins ({', '.join(differing)})"
        raise ProjectFolderInvalid(folder, problem, "Take these lines out of it while the stand-ins are used.")
