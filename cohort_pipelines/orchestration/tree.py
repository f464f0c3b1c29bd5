"""A project's declarations, of which a file that Dagster cannot read is an unloadable one, and stops no other.

Dagster reads all files under defs before any component of ours is asked, and gives the location up at the first that is
no YAML, not in UTF-8, or of a type that does not exist.
"""

from functools import partial
from typing import Any

import dagster as dg
from dagster.components.core.context import ComponentDeclLoadContext
from dagster.components.core.decl import (
    ComponentDecl,
    ComponentLoaderDecl,
    DefsFolderDecl,
    YamlFileDecl,
    build_filesystem_component_decl_from_context,
)
from dagster.components.core.defs_module import EXPLICITLY_IGNORED_GLOB_PATTERNS, ComponentPath, CompositeYamlComponent
from dagster_shared.record import as_dict

from cohort_pipelines.orchestration.declared import Declared, Unloadable, unreadable, yaml_in
from cohort_pipelines.orchestration.sentences import sentence


class DeclarationTree(dg.ComponentTree):
    """Dagster's own tree of components, but for the files that it cannot read."""

    def _get_filesystem_decl(self) -> ComponentDecl[Any]:
        location = ComponentPath.from_path(self.defs_module_path)
        known = self.state_tracker.get_cache_data(location).component_decl
        if known is None:
            known = _folder(self.decl_load_context.for_component_loc(location))
            self.state_tracker.set_cache_data(location, component_decl=known)
        return known


class _File(YamlFileDecl):
    """A file of declarations, of which ours apply their `post_processing` themselves."""

    def _load_component(self) -> CompositeYamlComponent:
        file = super()._load_component()
        file.asset_post_processors_list = [
            [] if isinstance(component, Declared) else processors
            for component, processors in zip(file.components, file.asset_post_processors_list, strict=True)
        ]
        return file


def _folder(context: ComponentDeclLoadContext) -> DefsFolderDecl:
    children = {}
    for path in sorted(context.path.iterdir()):
        if not any(path.relative_to(context.path).match(ignored) for ignored in EXPLICITLY_IGNORED_GLOB_PATTERNS):
            child = _declaration(context.for_component_loc(ComponentPath.from_path(path)))
            if child is not None:
                children[path] = child
    location = ComponentPath.from_path(context.path)
    return DefsFolderDecl(context=context, loc=location, children=children, source_tree=None, component_file_model=None)


def _declaration(context: ComponentDeclLoadContext) -> ComponentDecl[Any] | None:
    file = yaml_in(context.path)
    declares = file.exists() or file.is_symlink()
    if context.path.is_dir() and not declares:
        folder = _folder(context)
        return folder if folder.children else None
    given: object = {}
    try:
        if declares:
            file.stat()  # of a link to nothing Dagster would see nothing at all
        declaration = build_filesystem_component_decl_from_context(context)
        if isinstance(declaration, YamlFileDecl):
            for document in declaration.decls:  # what is named beside the attributes is looked up before our load()
                given = document.component_file_model and document.component_file_model.model_dump()
                _ = document.context_with_component_injected_scope, document.get_asset_post_processor_lists()
            return _File(**as_dict(declaration))
    except Exception as error:
        if not declares:  # a module of Python: code, and not a declaration
            raise
        location = ComponentPath.from_path(context.path)
        made = partial(_unreadable, problem=sentence(error, given))
        return ComponentLoaderDecl(context=context, loc=location, component_node_fn=made)
    return declaration


def _unreadable(context: ComponentDeclLoadContext, problem: str) -> Unloadable:
    file = yaml_in(context.path).relative_to(context.project_root)
    return unreadable(context.path.name, problem, str(file))
