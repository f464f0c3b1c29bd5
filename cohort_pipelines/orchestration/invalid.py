"""What can be wrong with declarations. Each error names the files and says what to change; the others are loaded."""

from collections.abc import Iterable

from cohort_pipelines.core.errors import ConfigurationError

USABLE = 0.8  # of a project's queries; the others are left to people and other tools


class ProjectNotLoaded(ConfigurationError):
    """A project's code cannot be loaded: a module of it fails, or Dagster itself refuses what it declares."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The project cannot be loaded: {problem}. Nothing was run. `dg check defs` shows the lines.")


class SyncUnloadable(ConfigurationError):
    """A command names a sync that is declared wrongly."""


class DeclarationInvalid(ConfigurationError):
    """A defs.yaml contradicts itself, its siblings or what the partner can do; ``files`` are those to look at."""

    def __init__(self, problem: str, files: tuple[str, ...], remedy: str) -> None:
        super().__init__(f"{problem} ({', '.join(files)}). Nothing is sent for it until that is corrected. {remedy}")
        self.files = files


class FileUnreadable(DeclarationInvalid):
    """A file under defs is no declaration at all: its bytes, its YAML or its `type` cannot be used."""

    def __init__(self, name: str, problem: str, file: str) -> None:
        super().__init__(f"{name} cannot be read: {problem}", (file,), "Correct the file; `dg check yaml` shows lines.")


class AttributesInvalid(DeclarationInvalid):
    """An attribute is unknown or missing, or its value cannot be used. No value is repeated: it may be a secret."""

    def __init__(self, name: str, problem: str, file: str) -> None:
        super().__init__(f"{name} is declared wrongly: {problem}", (file,), "Correct these attributes.")


class PostProcessingInvalid(DeclarationInvalid):
    """What stands under `post_processing` cannot be done to the declaration's assets."""

    def __init__(self, name: str, problem: str, file: str) -> None:
        super().__init__(
            f"post_processing of {name} is wrong: {problem}", (file,), "Correct what stands under post_processing."
        )


class KeyDoubled(DeclarationInvalid):
    """A key stands twice in one mapping of the YAML."""

    def __init__(self, key: str, file: str, lines: Iterable[int]) -> None:
        super().__init__(
            f"The key {key!r} stands twice, in lines {' and '.join(map(str, lines))}", (file,), "Keep one of them."
        )


class NameDoubled(DeclarationInvalid):
    """Two declarations have one name."""

    def __init__(self, name: str, files: tuple[str, ...]) -> None:
        super().__init__(f"The name {name!r} is declared twice", files, "Give each folder a name of its own.")


class ConnectionUnloadable(DeclarationInvalid):
    """A sync's source or destination is declared, but wrongly."""

    def __init__(self, sync: str, role: str, name: str, problem: str, file: str) -> None:
        super().__init__(
            f"The sync {sync} needs the {role} {name!r}, which cannot be loaded", (file,), f"The cause: {problem}"
        )


class NameUnusable(DeclarationInvalid):
    """A folder's name cannot be that of assets and groups."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(
            f"The name {name!r} cannot be used",
            (file,),
            "A folder's name becomes the name of assets, groups and resources: use a-z, 0-9 and _ only, at most 100; "
            "for all but syncs begin with a letter, and take no word of Python or Dagster.",
        )


class SecretInFile(DeclarationInvalid):
    """A secret stands in the file itself. The message does not repeat it."""

    def __init__(self, name: str, field: str, file: str) -> None:
        super().__init__(
            f"{name}'s {field} must be a reference to an environment variable, such as "
            f'"{{{{ env.{name.upper()}_{field.upper()} }}}}"',
            (file,),
            "Move the secret into the environment, and consider it known to everyone who saw the file.",
        )


class SettingsMissing(DeclarationInvalid):
    """The chosen way of delivery lacks settings."""

    def __init__(self, name: str, choice: str, missing: Iterable[str], file: str) -> None:
        super().__init__(f"{name} lacks {' and '.join(missing)}", (file,), f"`{choice}` does not work without.")


class SettingsMisplaced(DeclarationInvalid):
    """Settings are given that the chosen way of delivery does not have."""

    def __init__(self, name: str, choice: str, misplaced: Iterable[str], file: str) -> None:
        super().__init__(f"{name} sets {' and '.join(misplaced)}", (file,), f"`{choice}` has no such setting.")


class LinkInvalid(DeclarationInvalid):
    """A link would not lead to a page."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(f"{name}'s link is no web address", (file,), "It must start with https:// or http://.")


class SettingInvalid(DeclarationInvalid):
    """A connection's setting cannot be sent as it is. The message does not repeat it: it may hold a credential."""

    def __init__(self, name: str, field: str, problem: str, file: str) -> None:
        super().__init__(f"{name}'s {field} cannot be used: {problem}", (file,), "Correct this setting.")


class TargetTooLong(DeclarationInvalid):
    """A target's folder could not have its name."""

    def __init__(self, sync: str, files: tuple[str, ...]) -> None:
        super().__init__(
            f"The target of {sync} is too long for the name of a folder, once it is percent-encoded",
            files,
            "Shorten it to at most 255 bytes; a letter beyond ASCII takes six or more.",
        )


class PropertyReserved(DeclarationInvalid):
    """A profile property is to be matched on whose name a snapshot uses for something else."""

    def __init__(self, name: str, wanted: str, file: str) -> None:
        super().__init__(
            f"{name} cannot match on a property called {wanted!r}", (file,), "Copy it to another property."
        )


class ConnectionUnknown(DeclarationInvalid):
    """A sync names a source or destination that no folder declares."""

    def __init__(self, sync: str, role: str, name: str, known: Iterable[str], file: str) -> None:
        super().__init__(
            f"The sync {sync} names the {role} {name!r}, which no folder declares",
            (file,),
            f"Declared are: {', '.join(sorted(known)) or 'none'}.",
        )


class TypeUnsupported(DeclarationInvalid):
    """A sync is of a type that its partner does not have."""

    def __init__(self, sync: str, sync_type: str, partner: str, types: Iterable[str], files: tuple[str, ...]) -> None:
        super().__init__(
            f"The sync {sync} is {sync_type}, which {partner} does not have",
            files,
            f"Choose one of: {', '.join(sorted(types))}.",
        )


class FirstWindowMisplaced(DeclarationInvalid):
    """A scheduled sync without a first window, or a one-time export with one."""

    def __init__(self, sync: str, sync_type: str, *, scheduled: bool, file: str) -> None:
        super().__init__(
            f"The sync {sync} is {sync_type} and has {'no' if scheduled else 'a'} `since`",
            (file,),
            "A scheduled sync names the day of its first window; a one-time export has none.",
        )


class TargetClaimedTwice(DeclarationInvalid):
    """Two syncs deliver to one target."""

    def __init__(self, syncs: Iterable[str], target: str, destination: str, files: tuple[str, ...]) -> None:
        super().__init__(
            f"{' and '.join(syncs)} both deliver to {target!r} of {destination}",
            files,
            "A target has one owner: give each sync a target of its own.",
        )


class CohortSentTwice(DeclarationInvalid):
    """Two syncs send one cohort to one receiver of messages."""

    def __init__(self, syncs: Iterable[str], cohort_id: int, destination: str, files: tuple[str, ...]) -> None:
        super().__init__(
            f"{' and '.join(syncs)} send the cohort {cohort_id} to {destination}, which may know its groups by "
            "the cohort's id, whatever their names",
            files,
            "Send it once; where the receiver goes by names alone, declare a second destination for it, with an "
            "`account`, a label of your own.",
        )


class DestinationsAlike(DeclarationInvalid):
    """Two destinations of one partner have the same end, and no label that tells them apart."""

    def __init__(self, names: Iterable[str], files: tuple[str, ...]) -> None:
        super().__init__(
            f"{' and '.join(names)} deliver to the same place, as far as can be told without their keys",
            files,
            "Use one of them for all its syncs; if they are two accounts, give each an `account`, a label of your own.",
        )


class BudgetTooSmall(DeclarationInvalid):
    """The project's queries cannot carry the cadences of its syncs."""

    def __init__(self, sync: str, project_id: int, needed: float, granted: int, files: tuple[str, ...]) -> None:
        super().__init__(
            f"{sync} is left out: the syncs of Mixpanel project {project_id} need {needed:g} queries an hour, and "
            f"{granted * USABLE:g} of its {granted} are to be used",
            files,
            "Those with the earliest first windows go on. Declare fewer syncs on this project, or set queries_per_hour "
            "to what Mixpanel has granted.",
        )


class AlertsWithoutChannel(DeclarationInvalid):
    """Alerts without a channel."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(
            f"The alerts {name} have no channel", (file,), "Give them at least one channel: slack, webhook or email."
        )


class WatchedUnknown(DeclarationInvalid):
    """Alerts name a sync that no folder declares."""

    def __init__(self, name: str, sync: str, known: Iterable[str], file: str) -> None:
        super().__init__(
            f"The alerts {name} name the sync {sync!r}, which no folder declares",
            (file,),
            f"Declared are: {', '.join(sorted(known)) or 'none'}. Without `syncs` all of them are watched.",
        )
