"""`parambudget mcp`: tools for agents."""

import sys

from parambudget._install import require_packages
from parambudget.cli._options import print_notice


def mcp() -> None:
    """Serve count, solve, resize, plan and compare to an agent (MCP over standard input and output).

    Agents start it themselves: name `parambudget mcp` as a server in the settings of yours. Nothing is
    written, trained or downloaded.
    """
    require_packages("mcp", ["mcp"], ["mcp"])
    from parambudget.mcp import serve

    if sys.stdin is not None and sys.stdin.isatty():
        print_notice("waits for an agent on standard input, which is this terminal; Ctrl-C ends it")
    serve()
