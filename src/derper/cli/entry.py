"""The entry points of both programs: the steps before any slow import, then the program itself."""

from derper import startup


def derper() -> int:
    """Run `derper` with the arguments of the command line, and return its exit code."""
    startup.begin()
    from derper.cli.derper import main  # noqa: PLC0415  a signal during this import must find its handler

    return main()


def derpprobe() -> int:
    """Run `derpprobe` with the arguments of the command line, and return its exit code."""
    startup.begin()
    from derper.cli.derpprobe import main  # noqa: PLC0415  a signal during this import must find its handler

    return main()
