"""The compiled extension, as `native`, once it is known to be there and to be that of this package.

In a checkout the two are built apart, so one can be older; what would come of that is found out here and not later, as
a name that is missing. The rest of this folder takes it from here.
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
    """Normalize a version, as Cargo and Python spell pre-releases differently."""
    found = re.match(r"\d+(?:\.\d+)*", of)
    return found[0] if found else ""


_ours, _built = version(), getattr(native, "VERSION", "one that knows no version")
# The source can run without having been installed, and then has no version.
if _release(_ours) != _release(_built) and _ours != "0+source":
    raise ConfigError(f"the compiled part of derper is {_built}, and the rest is {_ours}; {_REMEDY}")
