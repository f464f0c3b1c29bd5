"""What every declaration has in common: the name of its folder, the file to point at, references kept unresolved."""

import re
from typing import Annotated, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr

from cohort_pipelines.orchestration.invalid import NameUnusable

USABLE_NAME = re.compile(r"[a-z0-9_]+")


REFERENCE = dg.Resolver.passthrough(description="Text that may hold {{ env.NAME }} references.")
SECRET = dg.Resolver.passthrough(description="One {{ env.NAME }} reference; never the secret itself.")
Reference = Annotated[str, REFERENCE]
Secret = Annotated[str, SECRET]


class Declared(dg.Component, dg.Resolvable):
    """A component that knows the folder which declares it: the folder's name is the declaration's name."""

    _name: str = PrivateAttr("")
    _file: str = PrivateAttr("")

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Load from YAML and remember where it stood.

        Raises:
            NameUnusable: the folder's name cannot be that of assets and groups.
        """
        name = context.path.name
        file = str((context.path / "defs.yaml").relative_to(context.project_root))
        if not USABLE_NAME.fullmatch(name):
            raise NameUnusable(name, file)
        declared = super().load(attributes, context)
        declared._name, declared._file = name, file  # noqa: SLF001  its own
        return declared

    @property
    def name(self) -> str:
        """The declaration's name: its folder's."""
        return self._name

    @property
    def file(self) -> str:
        """The declaring file, relative to the project."""
        return self._file
