"""A project of the user's own, written from the templates that ship with the package.

Templates keep their final names, but for the folder `module` and for what git or packaging tools would take for their
own. Placeholders are string.Template's, since the declarations' references are `{{ env.NAME }}`.
"""

import importlib.util
import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from cohort_pipelines import __version__
from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import ProjectFolderInvalid

INSTANCE_FILES = ("dagster.yaml", "workspace.yaml")

_TEMPLATES = files("cohort_pipelines.devtools") / "templates" / "project"
_FINAL_NAMES = {"gitignore": ".gitignore", "env.example": ".env.example", "pyproject.template": "pyproject.toml"}
_DATA_FOLDER = "data"  # where history and ledger go: a module of that name would lie in it and be ignored by git


def init_project(folder: Path) -> list[Path]:
    """Write a project with one sync of each type into ``folder``, which is made if need be.

    The root module is named after the folder, with `-` as `_`.

    Returns:
        The files written, in the order of their paths.

    Raises:
        ProjectFolderInvalid: the folder is not empty, or its name cannot be a Python module.
    """
    folder = folder.absolute()
    module = _module_name(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectFolderInvalid(folder, "is not an empty folder", "Name a new folder, or empty this one.")
    values = {"module": module, "name": folder.name, "today": f"{clock.now():%Y-%m-%d}", "version": __version__}
    return sorted(_write(folder / name, template, values) for name, template in _project_files(module))


def write_instance_files(folder: Path, module: str = "cohort_pipelines") -> list[Path]:
    """Write dagster.yaml and workspace.yaml, those that ``folder`` lacks, so that Dagster can be started in it."""
    missing = [name for name in INSTANCE_FILES if not (folder / name).exists()]
    return [_write(folder / name, _TEMPLATES / name, {"module": module}) for name in missing]


def _module_name(folder: Path) -> str:
    module = folder.name.lower().replace("-", "_")
    remedy = "Choose a folder name like my-cohort-syncs."
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise ProjectFolderInvalid(folder, "the name cannot be that of a Python module", remedy)
    if module == _DATA_FOLDER or _is_installed(module):
        raise ProjectFolderInvalid(folder, f"the name {module} is taken by another Python module", remedy)
    return module


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a bare folder in reach of sys.path has no origin


def _project_files(module: str) -> Iterator[tuple[str, Traversable]]:
    final_names = {**_FINAL_NAMES, "module": module}
    for path, template in _walk(_TEMPLATES):
        first, *rest = path.split("/")
        yield "/".join([final_names.get(first, first), *rest]), template


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield prefix + entry.name, entry
        elif entry.name != "__pycache__":
            yield from _walk(entry, f"{prefix}{entry.name}/")


def _write(path: Path, template: Traversable, values: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
    return path
