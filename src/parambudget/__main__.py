"""Where the command begins, also as `python -m parambudget`: an interrupt is one line, however early."""

import sys


def main() -> None:
    """Run the command line, whose imports are the first thing that takes time."""
    try:
        from parambudget.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("parambudget: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
