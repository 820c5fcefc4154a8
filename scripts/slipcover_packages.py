"""A pytest plugin: test modules stay in their packages while slipcover measures.

slipcover 1.1 replaces spec_from_file_location by a function that takes packages for plain modules, and
pytest's import mode `importlib` calls it for the packages of the tests.
"""

import importlib.util
from importlib import _bootstrap_external

importlib.util.spec_from_file_location = _bootstrap_external.spec_from_file_location
