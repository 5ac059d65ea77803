"""Memory of the layers."""

from .cases import LAYERS
from .measures import memory

globals().update(memory(LAYERS))
