"""Fixtures of the API tests that need the chart's roles and rules in force."""

from collections.abc import Iterator

import pytest
from tests.api.guarded import Guarded
from tests.conftest import start_with_crds


@pytest.fixture(scope="session")
def guarded() -> Iterator[Guarded]:
    """An API server of its own: the rules would get in the way of tests that play the operator.

    The controllers aggregate roles, and remove what lies in a deleted namespace.
    """
    with start_with_crds(controller_manager=True) as cluster:
        yield Guarded(cluster)
