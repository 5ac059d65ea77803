import pytest

import fastdrop as fd


@pytest.fixture
def threads_set_back():
    """Let a test set the number of threads."""
    before = fd.get_num_threads()
    yield
    fd.set_num_threads(before)
