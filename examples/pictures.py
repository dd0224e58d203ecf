"""What the examples show a person: a table, and pictures of reliefs."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def show_table(ranks: Iterable[Sequence[Any]]) -> None:
    """Print a row a rank: rank, rows, bytes through files and MPI, seconds, peak memory."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("rank", "rows", "through files", "through MPI", "seconds", "peak memory")
    for column in table.columns:
        column.justify = "right"
    for rank, rows, files, messages, seconds, memory in ranks:
        words = str(rank), str(rows), decimal(files), decimal(messages)
        table.add_row(*words, f"{seconds:.3f}", decimal(memory))
    Console().print(table)


def save_side_by_side(path: str, *heights: npt.NDArray[Any]) -> None:
    """Save pictures of several reliefs as one PNG, with the colours of the first, and say so."""
    import matplotlib
    from matplotlib.colors import LightSource
    from matplotlib.image import imsave

    low, high = heights[0].min(), heights[0].max()
    terrain = matplotlib.colormaps["gist_earth"]
    shaded = [
        LightSource().shade(
            height, terrain, blend_mode="soft", vert_exag=0.02, vmin=1.5 * low - high / 2, vmax=high
        )
        for height in heights
    ]
    imsave(path, np.clip(np.hstack(shaded), 0, 1))
    print(f"wrote {path}: {' and '.join(f'{h.shape[1]} x {h.shape[0]}' for h in heights)} pixels")


def save_picture(path: str, height: npt.NDArray[Any], light: npt.NDArray[Any]) -> None:
    """Save `light` over the colours of `height` as a PNG, two pixels a point, and say so."""
    import matplotlib
    from matplotlib.colors import LightSource
    from matplotlib.image import imsave

    relative = (height - height.min()) / np.ptp(height)
    colours = matplotlib.colormaps["gist_earth"](0.35 + 0.6 * relative)[..., :3]  # above water
    picture = np.clip(LightSource().blend_overlay(colours, light[..., np.newaxis]), 0, 1)
    picture = picture.repeat(2, axis=0).repeat(2, axis=1)
    imsave(path, picture)
    print(f"wrote {path}: {picture.shape[1]} x {picture.shape[0]} pixels")
