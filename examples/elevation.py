"""A real elevation model, and the light of the sun on it."""

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


def hillshade(
    height: npt.NDArray[np.float64],
    dx: float,
    dy: float,
    azimuth: float = 315.0,
    altitude: float = 45.0,
) -> npt.NDArray[np.float64]:
    """Return the light on each point: the cosine between its normal and the sun's direction.

    The sun is `azimuth` degrees from the north by the east, `altitude` degrees above the horizon.
    """
    south, east = np.gradient(height, dy, dx)
    up, round_ = np.radians(altitude), np.radians(azimuth)
    light = np.sin(up) + np.cos(up) * (south * np.cos(round_) - east * np.sin(round_))
    return np.clip(light / np.sqrt(1 + east**2 + south**2), 0, 1)
