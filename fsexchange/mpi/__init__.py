"""Ranks of an MPI job: exchange objects of any size. Importing this package initialises MPI."""

from fsexchange.mpi.exchange import Exchange, connect
from fsexchange.mpi.request import Request

__all__ = ["Exchange", "Request", "connect"]
