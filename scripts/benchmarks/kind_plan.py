"""How much is measured of every kind of objects. Imports little, as every process imports it."""

from typing import NamedTuple

from .words import KIB, MIB


class KindPlan(NamedTuple):
    """How much to measure of every kind of objects: as `Plan`."""

    sizes: list[int]
    rounds: int
    least: int
    seconds: float  # of each size
    objects: int
    together: int


KIND_SIZES = [KIB, 64 * KIB, 64 * MIB]
KIND_PLANS = {
    "full": KindPlan(KIND_SIZES, rounds=40, least=7, seconds=3, objects=40, together=4 * MIB),
    "quick": KindPlan(KIND_SIZES, rounds=9, least=3, seconds=0.5, objects=20, together=MIB),
}
