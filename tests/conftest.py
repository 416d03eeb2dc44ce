"""TIMES, of make test-long, multiplies what tests do by chance: examples of properties here, kills in tests/faults."""

from __future__ import annotations

import os

import pytest
from hypothesis import is_hypothesis_test, settings

TIMES = int(os.environ.get("TIMES", "1"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    properties = [item for item in items if is_hypothesis_test(getattr(item, "obj", None))]
    for item in properties:
        item.add_marker("chance")
    for test in {item.obj for item in properties} if TIMES > 1 else ():
        # A property says its own number, so that no profile can; hypothesis' plugin for pytest reads it here, too.
        usual = test._hypothesis_internal_use_settings
        test._hypothesis_internal_use_settings = settings(usual, max_examples=TIMES * usual.max_examples)
