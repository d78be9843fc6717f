"""Settings of all tests."""

import pytest
from hypothesis import settings

# A busy machine is no reason for a test to fail: none of them is about time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _no_calibration_of_ones_own(tmp_path_factory):
    """What the person who runs the tests has measured on their machine changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield
