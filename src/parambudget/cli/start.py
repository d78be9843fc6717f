"""Where the command begins: an interrupt is one line, however early it comes."""

import sys


def main() -> None:
    """Run the command line, whose imports are the first thing that takes time."""
    try:
        from parambudget.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("parambudget: interrupted\n")
        sys.exit(130)
