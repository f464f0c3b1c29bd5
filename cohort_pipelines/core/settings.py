"""Where this deployment keeps its data: two environment variables, both with defaults for one host.

A relative path means the same for every way of starting: it lies in the project's folder, whatever folder a process was
started in.
"""

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.core import split_protocol

from cohort_pipelines.core import environment
from cohort_pipelines.core.disk import take_rights_of_others
from cohort_pipelines.core.errors import LedgerUnusable, PathInvalid, ProjectFolderInvalid

DATA = "COHORT_PIPELINES_DATA"
LEDGER = "COHORT_PIPELINES_LEDGER"
HOME = "DAGSTER_HOME"

_SHIPPED = Path(__file__).parents[1]  # the demo's declarations, which run in any folder
_PRIVATE = ("history", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")
_SQLITE = ":///"
_entered: list[Path] = []


@contextmanager
def in_project(folder: Path) -> Iterator[list[str]]:
    """Let every setting be that of the project in ``folder``, and read its .env.

    Yields:
        The names of the variables of which the environment had another value than the .env, which is the one that
        counts.

    Raises:
        EnvironmentFileInvalid: the .env cannot be read.
    """
    differing = _enter(folder.resolve())
    try:
        yield differing
    finally:
        _entered.pop()


def adopt(package: Path) -> None:
    """Let every setting be that of the project which ``package`` belongs to, unless one was chosen; read its .env.

    That is the nearest folder around the package with a dagster.yaml, or whose pyproject.toml is that of a project.

    Raises:
        EnvironmentFileInvalid: the .env cannot be read.
    """
    if not _entered:
        _enter(_folder_around(package.resolve()))


def project_folder() -> Path:
    """Return the folder that relative paths lie in: the project's; without one, ``DAGSTER_HOME`` or the current one."""
    return (_entered[-1] if _entered else dagster_home() or Path()).absolute()


def dagster_home() -> Path | None:
    """Return the folder that ``DAGSTER_HOME`` names; None where it names none."""
    home = os.environ.get(HOME, "").strip()
    return Path(home).expanduser() if home else None


def local_path(text: str) -> Path:
    """Return the absolute path that ``text`` names: ``~`` is the home folder, and a relative one lies in the project.

    Raises:
        PathInvalid: it names the home folder of a user who has none.
    """
    try:
        return project_folder() / Path(text.strip()).expanduser()
    except RuntimeError:
        raise PathInvalid(text.strip(), "there is no such home folder") from None


def root_module(folder: Path) -> str | None:
    """Return the package that the pyproject.toml in ``folder`` names, where it is that of a project.

    Raises:
        ProjectFolderInvalid: it is not TOML, or a table that leads to the name is none.
    """
    declared = folder / "pyproject.toml"
    if not declared.is_file():
        return None
    try:
        module = tomllib.loads(declared.read_text(encoding="utf-8"))["tool"]["dg"]["project"]["root_module"]
    except KeyError:
        return None
    except TypeError:
        raise ProjectFolderInvalid(folder, "tool.dg.project in its pyproject.toml is no table", "Correct it.") from None
    except ValueError:
        raise ProjectFolderInvalid(folder, "its pyproject.toml cannot be read as TOML", "Correct it.") from None
    return str(module) if module else None


def data_root() -> str:
    """Return the folder, or the fsspec URL, that everything is kept under: ``COHORT_PIPELINES_DATA`` or ``data``."""
    named = os.environ.get(DATA, "").strip() or "data"
    if "://" in named or "::" in named:
        return named.rstrip("/")
    return str(local_path(named))


def history_root() -> str:
    """Return the history's root, a local folder or an fsspec URL."""
    return f"{data_root()}/history"


def ledger_url() -> str:
    """Return the ledger's SQLAlchemy URL: ``COHORT_PIPELINES_LEDGER``, or a SQLite file beside the history.

    That of PostgreSQL is ``postgresql://user@host/database``; its password is better kept in ``PGPASSWORD`` or a
    `~/.pgpass`, which its driver reads (https://www.postgresql.org/docs/current/libpq-pgpass.html).

    Raises:
        LedgerUnusable: the history is not on this host's disk, and the ledger would be; or its path cannot be told.
    """
    protocol, path = split_protocol(data_root())
    named = os.environ.get(LEDGER, "").strip()
    if protocol not in {None, "file", "local"} and (not named or named.startswith("sqlite")):
        problem = (
            f"it is a file of one host, and the history lies on {protocol}; set {LEDGER} to a PostgreSQL database, "
            f"postgresql://user@host/database, or set {DATA} to a folder of this host"
        )
        raise LedgerUnusable(named or "its default place", problem)
    if not named:
        if "?" in path:
            raise LedgerUnusable(
                path, f"no URL can name a path with a question mark; set {DATA} or {LEDGER} to another"
            )
        return f"sqlite:///{path}/ledger.sqlite"
    driver, is_file, file = named.partition(_SQLITE)
    if not driver.startswith("sqlite") or file in {"", ":memory:"}:
        return named
    place, has_options, options = file.partition("?")
    return f"{driver}{is_file}{local_path(place)}{has_options}{options}"


def _enter(folder: Path) -> list[str]:
    differing = environment.read_file(folder)
    _entered.append(folder)
    take_rights_of_others(folder / "data" / "dagster")  # Dagster makes it readable by others, where it comes first
    if (root := Path(data_root())).is_absolute():
        for ours in _PRIVATE:  # not from the folder, which may hold what others keep there
            take_rights_of_others(root / ours)
    return differing


def _folder_around(package: Path) -> Path:
    home = dagster_home()
    if package == _SHIPPED and home:
        return home
    around = (folder for folder in package.parents if (folder / "dagster.yaml").is_file() or root_module(folder))
    return next(around, home or Path()).absolute()
