"""Django's command line with Reservoir's commands first in its help, and with a database for those that need one."""

from __future__ import annotations

from collections.abc import Iterator

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility, get_commands, load_command_class

OURS = ("reservoir_site", "console", "proxy", "access", "conversations")
GROUPS = {
    "Run": ("serve", "demo", "mcp", "fakeprovider", "runserver", "version"),
    "See and search": ("stats", "usage", "view", "search"),
    "Add, export, forget": ("ingest", "export", "import", "prune"),
    "Let in": ("key", "limit", "credentials"),
    "Maintain": ("backup", "restore", "spool", "index", "reembed", "distribute", "evaluate", "providers"),
}
OTHERS = "More"
WITHOUT_DATABASE = ("fakeprovider", "providers")  # of the commands of proxy and conversations


class CommandLine(ManagementUtility):
    """ManagementUtility that knows which commands are ours."""

    def execute(self) -> None:
        """Run the command; starts and migrates the database first if the command works on it.

        Raises ImproperlyConfigured, PostgresError.
        """
        arguments = self.argv[1:]
        if arguments in (["version"], ["--version"]):  # Django would print its own
            django.setup()
            self.fetch_command("version").run_from_argv([self.argv[0], "version"])
            return
        if arguments and {"-h", "--help"}.isdisjoint(arguments):
            _prepare_database(arguments[0])
        super().execute()

    def main_help_text(self, commands_only: bool = False) -> str:
        """What `help` prints: Reservoir's commands in groups, each with a line, then the names of Django's."""
        if commands_only:  # for shell completion
            return super().main_help_text(commands_only=True)
        try:
            django.setup()
        except ImproperlyConfigured as error:
            return f"{error}"
        lines = [f"Type '{self.prog_name} help <command>' for help on one of them.", ""]
        for group, names in grouped().items():
            lines += [group, *(f"  {name:<12} {summary(name)}" for name in names), ""]
        others = sorted(name for name, app in get_commands().items() if app not in OURS)
        return "\n".join([*lines, "Django's", *_wrapped(others)])


def grouped() -> dict[str, list[str]]:
    """Reservoir's commands by group; commands without a group come last."""
    ours = {name for name, app in get_commands().items() if app in OURS}
    groups = {group: [name for name in names if name in ours] for group, names in GROUPS.items()}
    rest = sorted(ours - {name for names in groups.values() for name in names})
    return groups | ({OTHERS: rest} if rest else {})


def summary(name: str) -> str:
    """The first sentence of a command's help."""
    text = load_command_class(get_commands()[name], name).help
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _prepare_database(name: str) -> None:
    """Start and migrate the database for a command that works on it, as the server need not run."""
    django.setup()
    if get_commands().get(name) in ("conversations", "access", "proxy") and name not in WITHOUT_DATABASE:
        from reservoir_site import server

        server.prepare_database()


def _wrapped(names: list[str], width: int = 78) -> Iterator[str]:
    line = " "
    for name in names:
        if len(line) + 1 + len(name) > width:
            yield line
            line = " "
        line += f" {name}"
    yield line
