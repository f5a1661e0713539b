"""`python -m conki_cli` is the same program as `conki`."""

from conki_cli.cli import main

main()
