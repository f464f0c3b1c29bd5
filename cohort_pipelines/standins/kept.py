"""Stand-ins that belong to a data folder: they come back as they were left there, at the same ports."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

import msgspec

from cohort_pipelines.standins.settings import Addresses, Settings

FOLDER = "standins"  # in the data folder; only a demo's data has it


def kept_settings(data: Path, *, members: int = 10_000) -> Settings:
    """Return the settings of the stand-ins that ``data`` belongs to, or those of new ones with ``members``."""
    home = data.absolute() / FOLDER
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
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
