"""A real elevation model, and what the examples show a person of it: a table and a picture."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def load_elevation() -> tuple[npt.NDArray[np.float64], float, float]:
    """Return heights in metres, row by row from the north, and the metres between columns, rows.

    The model of the Jacksboro fault, Tennessee, ships with matplotlib (SRTM, USGS).
    """
    from matplotlib.cbook import get_sample_data

    model: Any = get_sample_data("jacksboro_fault_dem.npz")
    degree = 111_200  # metres of latitude
    latitude = np.radians(model["ymin"])
    height = model["elevation"].astype("f8")
    return height, float(degree * model["dx"] * np.cos(latitude)), float(degree * model["dy"])


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
