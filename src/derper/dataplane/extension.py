"""The compiled extension, as `native`, after a check that it exists and has this package's version.

In a checkout the two are built separately, so one can be older. The check finds this at import, not later as a missing
name. The other modules of this folder import it from here.
"""

import re
from typing import Final

from derper._version import version
from derper.errors import ConfigError

_REMEDY: Final = "install derper again, or in a checkout run `make run`"

try:
    from derper.dataplane import _native as native
except ImportError as error:
    raise ConfigError(f"the compiled part of derper cannot be loaded ({error}); {_REMEDY}") from error

__all__ = ["native"]


def _release(of: str) -> str:
    """Return a version in normal form: Cargo and Python spell pre-releases differently."""
    found = re.match(r"\d+(?:\.\d+)*", of)
    return found[0] if found else ""


_ours, _built = version(), getattr(native, "VERSION", "one that knows no version")
# Source that was not installed has no version.
if _release(_ours) != _release(_built) and _ours != "0+source":
    raise ConfigError(f"the compiled part of derper is {_built}, and the rest is {_ours}; {_REMEDY}")
