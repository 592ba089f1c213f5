"""``specplan`` and ``python -m specplan``: where the process begins."""

import sys


def main() -> None:
    """Run the command line. Whoever interrupts it while it is still being imported sees one line, too."""
    try:
        from specplan.cli.main import entry_point
    except KeyboardInterrupt:
        print("specplan: error: interrupted", file=sys.stderr)
        sys.exit(2)
    entry_point()


if __name__ == "__main__":
    main()
