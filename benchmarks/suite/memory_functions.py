"""Memory of the public functions."""

from .cases import FUNCTIONS
from .measures import memory

globals().update(memory(FUNCTIONS))
