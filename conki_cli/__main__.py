"""The program: `conki`, or `python -m conki_cli`."""

from conki_cli.system.signals import leave_early


def main() -> None:
    """Run it; a signal ends it without a traceback, even during the imports."""
    leave_early()
    from conki_cli.cli import main as program

    program()


if __name__ == "__main__":
    main()
