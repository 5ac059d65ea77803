"""Times of the layers."""

from .cases import LAYERS
from .measures import timed

globals().update(timed(LAYERS))
