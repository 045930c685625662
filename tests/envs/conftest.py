import pytest

from tests.envs.tiny import FAMILIES, make_pair
from wheels.models.pair import Pair


@pytest.fixture(scope="session", params=list(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    """A pair of each family."""
    return make_pair(request.param)


@pytest.fixture(scope="session")
def t5_pair() -> Pair:
    return make_pair("t5")
