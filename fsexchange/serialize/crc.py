"""CRC-32 as zlib computes it, by the fastest implementation that is installed."""

try:
    from isal.isal_zlib import crc32  # four times as fast as zlib 1.3 on x86-64
except ImportError:  # there is no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
