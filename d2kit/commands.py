"""Each console command is a module with `add_arguments(parser)` and `run(args)`, imported only when it runs.

A module's docstring is the description of its command. `run` returns the exit status (None is 0), raises
`argparse.ArgumentError(None, sentence)` for arguments that contradict each other, and OSError, ValueError, KeyError or
ImportError for other mistakes of its user.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from d2kit import __version__

TRACEBACK = "D2KIT_TRACEBACK"  # If this environment variable is set, errors keep their traceback.


def run_command(module: ModuleType, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Parse the arguments of one command and run it; a mistake of the user becomes one sentence on stderr.

    Args:
        module: the module of the command.
        arguments: the arguments; None stands for those of the process.
        program: the name for messages; None stands for the name of the script.

    Returns:
        the exit status.

    Raises:
        SystemExit: the arguments are wrong (status 2), or --help was given.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    try:
        return module.run(parser.parse_args(arguments)) or 0
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        if os.environ.get(TRACEBACK):
            raise
        print(f"{parser.prog}: interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, ValueError, KeyError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        sentence = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
        return 1


def run_program(
    package: str, description: str, commands: Mapping[str, str], arguments: Sequence[str] | None = None
) -> int:
    """Run the subcommand that comes first in the arguments.

    Args:
        package: the package with the modules `package.commands.NAME`; a subcommand's hyphen is an underscore there.
        description: one sentence for --help.
        commands: the subcommands, each with one sentence for --help.
        arguments: the arguments; None stands for those of the process.

    Returns:
        the exit status.

    Raises:
        SystemExit: see `run_command`.
    """
    width = max(map(len, commands))
    listing = "\n".join(f"  {name:{width}}  {sentence}" for name, sentence in commands.items())
    parser = argparse.ArgumentParser(
        prog=package,
        usage="%(prog)s [--help] [--version] COMMAND ...",
        description=f"{description}\n\ncommands:\n{listing}",
        epilog=f"'{package} COMMAND --help' describes the command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{package} {__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command not in commands:
        unknown = f"the command '{options.command}' does not exist" if options.command else "a command is missing"
        parser.error(f"{unknown}; choose from {', '.join(commands)}.")
    module = importlib.import_module(f"{package}.commands.{options.command.replace('-', '_')}")
    return run_command(module, options.rest, f"{package} {options.command}")
