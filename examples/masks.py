"""Show one photograph under the masks of fastdrop: elements, feature maps, blocks, rows of time.

    python examples/masks.py
    python examples/masks.py --p 0.3 --seed 1 --out masks.png

The photograph's colours are the channels. For the temporal mask its rows are the steps of a sequence and
its columns the features, so that a column is dropped from top to bottom.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

try:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from sklearn.datasets import load_sample_image
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None


def photograph(every: int = 2) -> NDArray[np.float32]:
    """Return scikit-learn's flower as (1, 3, height, width), in [0, 1]."""
    image = load_sample_image("flower.jpg")[::every, ::every]
    return np.ascontiguousarray(np.moveaxis(image, 2, 0)[None], np.float32) / 255


def masked(x: NDArray[np.float32], p: float, key: fd.Key) -> dict[str, NDArray[np.float32]]:
    """Return the photograph under each mask, by its title."""
    height, width = x.shape[2:]
    steps = x.transpose(0, 2, 3, 1).reshape(1, height, width * 3)  # (batch, time, features)
    layers = {  # pictures to compare, so one key does for all; layers of one network need a key each
        "Dropout: elements": (fd.Dropout(p, rng=key), x),
        "SpatialDropout2D: feature maps": (fd.SpatialDropout2D(p, rng=key), x),
        "DropBlock2D: blocks of 25 x 25": (fd.DropBlock2D(p, block_size=25, rng=key), x),
        "DropBlock2D, shared channels": (fd.DropBlock2D(p, block_size=25, shared_channels=True, rng=key), x),
        "TemporalDropout: columns over all rows": (fd.TemporalDropout(p, rng=key), steps),
    }
    shown = {"the photograph": x}
    for title, (layer, given) in tqdm(layers.items(), unit=" masks"):
        y = layer(given)
        shown[title] = y if y.ndim == 4 else y.reshape(1, height, width, 3).transpose(0, 3, 1, 2)
    return shown


def save(shown: dict[str, NDArray[np.float32]], p: float, path: Path) -> None:
    """Write the photographs as panels, undoing the scale of what was kept so that colours stay."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, (title, y) in zip(figure.subplots(2, 3).flat, shown.items(), strict=True):
        kept = y if title == "the photograph" else y * (1 - p)
        axes.imshow(np.clip(np.moveaxis(kept[0], 0, 2), 0, 1))
        axes.set_title(f"{title}\n{np.mean(y == 0):.0%} zeros", fontsize=10)
        axes.set_axis_off()
    figure.savefig(path, dpi=80)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--p", type=float, default=0.4, help="probability to drop (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/masks.png"), help="(default: %(default)s)")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(masked(photograph(), options.p, fd.Key(options.seed)), options.p, options.out)
    print(f"Masks: {options.out}")


if __name__ == "__main__":
    main()
