"""A pytest plugin: two corrections of slipcover 1.1 in the processes of pytest-xdist.

Test modules stay in their packages. slipcover replaces spec_from_file_location by a function that takes
packages for plain modules, and pytest's import mode `importlib` calls it for the packages of the tests.

Lines keep their probes for longer. To remove those of all lines seen so far, slipcover before Python 3.12
looks at every function of every module, and it did so whenever one more line had run 50 times: a third of the
tests' processor time. Its option `--threshold` does not reach the processes of pytest-xdist.
"""

import functools
import importlib.util
import sys
from importlib import _bootstrap_external

import slipcover

_N_RUNS = 2000  # of a line; then its probe is removed, and those of all lines seen by then

if sys.version_info < (3, 12):
    slipcover.Slipcover = functools.partial(slipcover.Slipcover, d_miss_threshold=_N_RUNS)
importlib.util.spec_from_file_location = _bootstrap_external.spec_from_file_location
