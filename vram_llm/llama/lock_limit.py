"""How much memory this process may lock."""

import contextlib
import resource


def raise_lock_limit() -> None:
    """Raise the soft limit, which mlock() heeds, to the hard one."""
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
