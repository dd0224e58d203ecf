"""The `fsexchange` command: a subcommand a module, each with one click command named `command`.

`program` has the list of subcommands; it imports a module when its subcommand is called, and turns
errors into one line and an exit code. Modules of subcommands import at their top what every call of
theirs needs. `options` has what several subcommands take, `output` what they show, `progress` the
bar. Only this package imports click and rich.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command with this process's arguments, and exit."""
    try:
        from fsexchange.cli.program import end, prepare, run
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(
            f"fsexchange: the command needs {error.name}, which is not installed here: "
            "pip install 'fsexchange[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    prepare()
    end(run(sys.argv[1:]))
