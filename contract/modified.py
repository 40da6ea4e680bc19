"""Modification times of captures: how they are stored, and when two of them are the same file's.

A mount may show coarser times than the disk has: SMB 100 ns or whole seconds, FAT two seconds, beside NFS with
nanoseconds. Whoever compares a time from one mount with a time from another must not take this for a change.
"""

GRAINS_NS = (100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
"""Steps of times on file systems and mounts: NTFS and SMB, FUSE and NFS of some servers, exFAT, ext3 and HFS+, FAT."""
_RANGE = 2**64
"""The database keeps times in 64 bits with a sign, which reach from 1677 to 2262."""


def stored_time(modified_ns: int) -> int:
    """A modification time (nanoseconds since 1970) in signed 64 bits; times out of their range wrap around.

    A camera whose clock is wrong writes such times. Different times stay different unless they are 584 years apart.
    """
    return (modified_ns + _RANGE // 2) % _RANGE - _RANGE // 2


def same_time(first_ns: int, second_ns: int) -> bool:
    """Whether two stored times may be the same file's on two mounts.

    They are if they are equal, or if one is a whole number of steps of a coarser mount and lies less than a step away:
    then it is the other one cut off or rounded. Whoever asks compares the size as well, and exactly.
    """
    apart = abs(first_ns - second_ns)
    return not apart or any(apart < grain and (first_ns % grain == 0 or second_ns % grain == 0) for grain in GRAINS_NS)
