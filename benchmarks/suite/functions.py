"""Times of the public functions."""

from .cases import FUNCTIONS
from .measures import timed

globals().update(timed(FUNCTIONS))
