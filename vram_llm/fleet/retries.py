"""The wait after a load that failed, of a model and of one of its replicas."""

FIRST_S, LAST_S = 5.0, 300.0
_MOST_DOUBLINGS = 32  # a float overflows at 1024, which a failure every five minutes reaches in four days


def retry_wait_s(n_failures: int) -> float:
    """Seconds until the next attempt after `n_failures` in a row, 1 or more: twice as many each time."""
    return min(FIRST_S * 2.0 ** min(n_failures - 1, _MOST_DOUBLINGS), LAST_S)
