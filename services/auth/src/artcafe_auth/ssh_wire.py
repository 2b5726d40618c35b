"""Read and write the strings of SSH's wire format (RFC 4251, section 5)."""

from __future__ import annotations


class WireError(ValueError):
    """The bytes are not what they should be."""


class Reader:
    """Takes fields from the front of a blob."""

    __slots__ = ("_at", "_blob")

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises: WireError where there are too few."""
        end = self._at + size
        if end > len(self._blob):
            raise WireError("too short")
        taken = self._blob[self._at : end]
        self._at = end
        return taken

    def uint32(self) -> int:
        """Return the next number of four bytes."""
        return int.from_bytes(self.take(4))

    def string(self) -> bytes:
        """Return the next string: four bytes of length, then so many bytes."""
        return self.take(self.uint32())

    def mpint(self) -> int:
        """Return the next multiple precision integer; negative ones are refused, nothing here has any."""
        data = self.string()
        if data and data[0] & 0x80:
            raise WireError("negative number")
        return int.from_bytes(data)

    def end(self) -> None:
        """Raise unless everything was taken."""
        if self._at != len(self._blob):
            raise WireError("too long")


def string(data: bytes) -> bytes:
    """Return a string as it travels."""
    return len(data).to_bytes(4) + data
