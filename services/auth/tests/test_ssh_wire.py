"""SSH's wire format."""

import pytest

from artcafe_auth.ssh_wire import Reader, WireError, string


def test_fields_come_back_in_order() -> None:
    """What was written is read again, and nothing is left."""
    reader = Reader(string(b"one") + b"\x00\x00\x00\x07" + string(b"\x00\xff"))
    assert reader.string() == b"one"
    assert reader.uint32() == 7
    assert reader.mpint() == 255
    reader.end()


@pytest.mark.parametrize("blob", [b"", b"\x00\x00", b"\x00\x00\x00\x05abc", b"\xff\xff\xff\xffabc"])
def test_short_blob_is_refused(blob: bytes) -> None:
    """A length that reaches past the end is an error, not a short string."""
    with pytest.raises(WireError):
        Reader(blob).string()


def test_rest_is_refused() -> None:
    """Bytes behind the last field are an error."""
    reader = Reader(string(b"a") + b"x")
    reader.string()
    with pytest.raises(WireError):
        reader.end()


def test_negative_number_is_refused() -> None:
    """No number in keys or signatures is negative."""
    with pytest.raises(WireError):
        Reader(string(b"\x80")).mpint()
