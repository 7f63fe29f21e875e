"""Writes docs/close-reasons.md, the values of `reason=` in the log, from `CloseReason`.

`python tools/close_reasons_page.py` writes it; `--check` returns exit code 1 if it is out of date.
"""

import sys
from typing import Final

import generated

from derper.dataplane import CloseReason

PAGE: Final = generated.ROOT / "docs" / "close-reasons.md"

HEAD: Final = """# Close reasons

Look up here why a connection ended. The log lines `client gone` and `connection closed` have one of these values as
`reason=`, and further facts as `detail=`. Alerts may rely on the values.

Written by `tools/close_reasons_page.py` from the code.
"""


def page() -> str:
    """Return the whole page."""
    rows = [(f"`{reason}`", reason.meaning, reason.cure) for reason in CloseReason]
    return "\n".join([HEAD, generated.section("All values", ("reason", "meaning", "cure"), rows)])


if __name__ == "__main__":
    sys.exit(generated.main(PAGE, page(), sys.argv[1:]))
