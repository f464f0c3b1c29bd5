"""What every declaration has in common: its name, its file, references kept; and what becomes of a wrong one.

Dagster stops the whole code location at the first declaration that it cannot load. Here a wrong one becomes an
:class:`Unloadable` in its own place: Dagster is given a model that takes any attributes, so that they reach
:meth:`Declared.load`, which validates them and is free to return something else.
"""

import os
import re
from collections.abc import Callable
from functools import reduce
from hashlib import sha256
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unicodedata import category

import dagster as dg
from dagster.components.core.decl import YamlDecl
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PrivateAttr, RootModel

from cohort_pipelines.core import environment
from cohort_pipelines.orchestration.doubled import require_single_keys
from cohort_pipelines.orchestration.invalid import (
    AttributesInvalid,
    DeclarationInvalid,
    FileUnreadable,
    NameUnusable,
    PostProcessingInvalid,
)
from cohort_pipelines.orchestration.sentences import sentence

USABLE_NAME = re.compile(r"[a-z0-9_]{1,100}")  # a folder of the history is called sync=<name>
_TAKEN = {"records", "io_manager", "unloadable_declarations", "dynamic_syncs", "recurring_syncs", "freshness"} | {
    *("context", "conf", "config", "meta", "arg_dict", "dict", "input_arg_dict", "output_arg_dict"),
    *("int", "str", "float", "bool", "input", "output", "type"),
}
YAML_NAMES = ("defs.yaml", "defs.yml", "component.yaml")  # what Dagster reads, in its order

REFERENCE = dg.Resolver.passthrough(description="Text that may hold {{ env.NAME }} references.")
SECRET = dg.Resolver.passthrough(description="One {{ env.NAME }} reference; never the secret itself.")
Reference = Annotated[str, REFERENCE]
Secret = Annotated[str, SECRET]
_TEMPLATE = re.compile(r"\{[{%#]")
PostProcessor = Callable[[dg.Definitions], dg.Definitions]
MOST = 2**31 - 1  # of what a ledger's column can hold


def _plain(text: str) -> str:
    if any(category(character) in {"Cc", "Cs"} for character in text):
        message = "control characters are no part of a name"
        raise ValueError(message)
    return text


def _rendered(context: dg.ResolutionContext, text: str) -> object:
    """Render a template, and nothing else: Dagster would take `'plan'` or `160000` for a literal of Python's."""
    environment.resolve(text, wanted_for="the declaration")  # of what is not set Dagster would make None
    return context.resolve_value(text) if _TEMPLATE.search(text) else text


def _a_number(value: object) -> object:
    if isinstance(value, bool | str):  # which pydantic takes for 0, for 1, or for the number that it spells
        message = "a number is needed, without quotes"
        raise ValueError(message)  # noqa: TRY004  pydantic reports no TypeError
    return value


NUMBER = BeforeValidator(_a_number)
TEXT = dg.Resolver(_rendered, model_field_type=str, inject_before_resolve=False)
Text = Annotated[str, Field(max_length=1_000), AfterValidator(_plain), TEXT]
Id = Annotated[int, Field(ge=0, le=MOST), NUMBER]


class Declared(dg.Component, dg.Resolvable):
    """A component that knows the folder which declares it: the folder's name is the declaration's name."""

    role: ClassVar[str] = ""

    _name: str = PrivateAttr("")
    _file: str = PrivateAttr("")
    _document: int = PrivateAttr(0)
    _post_processors: list[PostProcessor] = PrivateAttr(default_factory=list)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return a model that takes any attributes; the JSON schema that editors and `dg` see is the strict one."""
        strict = cls.model()

        class Given(RootModel[dict[str, Any]]):
            @classmethod
            def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
                return strict.model_json_schema(*arguments, **options)

        return Given

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Declared":
        """Load from YAML and remember where it stood; what is wrong becomes an :class:`Unloadable`."""
        name, path, document = context.path.name, yaml_in(context.path), _document(context)
        file = str(path.relative_to(context.project_root))
        given = {} if attributes is None else attributes.model_dump()
        try:
            require_single_keys(path, document, file)
            if not USABLE_NAME.fullmatch(name) or (cls.role != "sync" and not _names_a_resource(name)):
                raise NameUnusable(name, file)  # noqa: TRY301  so that one place deals with all that is wrong
            declared = super().load(cls.model().model_validate(given), context)
            declared._place(name, file, document)  # noqa: SLF001  its own
            declared._post_processors = _post_processors(context)  # noqa: SLF001
            if declared._post_processors and cls.role != "sync":  # noqa: SLF001
                raise PostProcessingInvalid(name, "it has no assets", file)  # noqa: TRY301
            declared.require_usable()
        except Exception as error:  # noqa: BLE001  ours, pydantic's, Dagster's, Jinja's, those of what a template calls
            found = (
                error
                if isinstance(error, DeclarationInvalid)
                else AttributesInvalid(name, sentence(error, given), file)
            )
            wrong = Unloadable(problem=str(found), kind=cls.role)
            wrong._place(name, file, document)  # noqa: SLF001  its own
            return wrong
        return declared

    def _place(self, name: str, file: str, document: int = 0) -> None:
        self._name, self._file, self._document = name, file, document

    def require_usable(self) -> None:
        """Refuse attributes that contradict one another.

        Raises:
            DeclarationInvalid: what is wrong with them.
        """

    @property
    def name(self) -> str:
        """The declaration's name: its folder's."""
        return self._name

    @property
    def file(self) -> str:
        """The declaring file, relative to the project."""
        return self._file

    @property
    def post_processors(self) -> list[PostProcessor]:
        """What stands under `post_processing` beside the attributes."""
        return self._post_processors

    def processed(self, built: dg.Definitions) -> dg.Definitions:
        """Return what `post_processing` makes of what was ``built``."""
        return reduce(lambda before, process: process(before), self._post_processors, built)


class Unloadable(Declared, dg.Model):
    """What stands in the place of a declaration that is wrong: one asset that fails with the reason.

    Attributes:
        problem: what is wrong, in a sentence or two.
        kind: the role of what was declared; empty where that cannot be told.
    """

    problem: str
    kind: str = ""

    @property
    def may_be_a_sync(self) -> bool:
        """Whether it was declared as a sync, or as something that cannot be told."""
        return self.kind in {"sync", ""}

    @property
    def key(self) -> dg.AssetKey:
        """The failing asset: `<name>/declaration`, with the folders around it and the number of a further document."""
        folders = Path(self.file).parent.parts[2:]  # below <package>/defs
        number = [str(self._document + 1)] if self._document else []
        return dg.AssetKey([*(folders or (self.name,)), *number, "declaration"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002  the interface's argument
        """Return an asset under the declaration's name that says what is wrong, and fails with it."""
        group = re.sub(r"\W", "_", self.name, flags=re.ASCII)
        stands = sha256(f"{self.file}\n{self._document}".encode(errors="surrogateescape")).hexdigest()
        asset = dg.AssetOut(key=self.key, group_name=group, description=self.problem)

        @dg.multi_asset(name=f"declaration_{stands}", outs={"declaration": asset})  # Dagster makes no name of any key
        def declaration() -> None:
            raise dg.Failure(self.problem, allow_retries=False)

        return dg.Definitions(assets=[declaration])


def unloadable(declared: Declared, error: DeclarationInvalid) -> Unloadable:
    """Return what stands in the place of ``declared``, which is wrong as ``error`` says."""
    made = Unloadable(problem=str(error), kind=declared.role)
    made._place(declared.name, declared.file, declared._document)  # noqa: SLF001  its own
    return made


def unreadable(name: str, problem: str, file: str) -> Unloadable:
    """Return what stands in the place of a ``file`` that is no declaration at all."""
    made = Unloadable(problem=str(FileUnreadable(name, problem, file)))
    made._place(name, file)  # noqa: SLF001  its own
    return made


def yaml_in(folder: Path) -> Path:
    """Return the file that declares what is in ``folder``."""
    return next((path for name in YAML_NAMES if os.path.lexists(path := folder / name)), folder / YAML_NAMES[0])


def declared_in(tree: dg.ComponentTree) -> list[Declared]:
    """Return every declaration of ours, the unloadable ones among them."""
    return tree.get_all_components(of_type=Declared)  # type: ignore[type-abstract]  # its subclasses are asked for


def _names_a_resource(name: str) -> bool:
    """Tell whether Dagster can offer a resource, or a sensor, of that name beside its own and ours."""
    return name.isidentifier() and not iskeyword(name) and not name.startswith("_") and name not in _TAKEN


def _post_processors(context: dg.ComponentLoadContext) -> list[PostProcessor]:
    declaration = context.component_decl
    return list(declaration.get_asset_post_processor_lists()) if isinstance(declaration, YamlDecl) else []


def _document(context: dg.ComponentLoadContext) -> int:
    key = getattr(context.component_decl.loc, "instance_key", None)
    return key if isinstance(key, int) else 0
