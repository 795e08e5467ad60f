"""The size that an image file declares, read from its first bytes.

A file of a hundred bytes can declare a billion pixels, for which a decoder asks for
gigabytes before it looks at the rest. Nothing here depends on the rest being there.
"""

import struct
from collections.abc import Iterator

_JPEG, _PNG, _BMP, _WEBP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", (b"RIFF", b"WEBP")
# TIFF and BigTIFF, in both orders of bytes.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF
_DEPTH_OF_PNG = 24  # position of the byte in a file


def declared_size(encoded: bytes) -> tuple[int, int] | None:
    """Reads the size of an image without decoding it.

    Args:
        encoded: a file.

    Returns:
        (width, height) in pixels, as the header has them, before an orientation in the
        EXIF data; of a file with several images those of the first. None if the file is
        not JPEG, PNG, BMP, WebP or TIFF, or its header is not whole.
    """
    try:
        if encoded.startswith(_JPEG):
            return _of_jpeg(encoded)
        if encoded.startswith(_PNG) and encoded[12:16] == b"IHDR":
            return struct.unpack_from(">II", encoded, 16)
        if encoded.startswith(_BMP):
            return _of_bmp(encoded)
        if encoded.startswith(_WEBP[0]) and encoded[8:12] == _WEBP[1]:
            return _of_webp(encoded)
        if encoded.startswith(_TIFF):
            return _of_tiff(encoded)
    except (struct.error, IndexError):
        return None  # it ends too early
    return None


def may_have_sixteen_bits(encoded: bytes) -> bool:
    """Returns whether a file is a PNG of 16 bits, or a TIFF, which may be."""
    depth = encoded[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1]
    return (encoded.startswith(_PNG) and depth == b"\x10") or encoded.startswith(_TIFF)


def is_cut_off(encoded: bytes) -> bool:
    """Returns whether a file is a JPEG without an end, or a PNG whose parts are longer.

    Some releases of OpenCV fill the rest of such a JPEG with gray and do not say so. Of
    a PNG they ask for as much memory as a part says that it is long: up to 4 GB.
    """
    if encoded.startswith(_JPEG):
        return b"\xff\xd9" not in encoded
    if not encoded.startswith(_PNG):
        return False
    position, kind = len(_PNG), b""
    while position + 8 <= len(encoded) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, position)
        position += 12 + length  # with the length itself, the kind and a checksum
    return position > len(encoded)


def _of_jpeg(encoded: bytes) -> tuple[int, int] | None:
    position = 2
    while encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # any number of these may come before a marker
            position += 1
            continue
        # A frame of any kind; C4, C8 and CC are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return width, height
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD7
        (length,) = (0,) if alone else struct.unpack_from(">H", encoded, position + 2)
        position += 2 + length
    return None


def _of_bmp(encoded: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", encoded, 14)
    # A negative height says that the rows run from top to bottom.
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", encoded, 18)
    return abs(width), abs(height)


def _of_webp(encoded: bytes) -> tuple[int, int] | None:
    kind = encoded[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        first, second = struct.unpack_from("<HBHB", encoded, 24)[:2], encoded[27:30]
        width = first[0] + (first[1] << 16) + 1
        return width, int.from_bytes(second, "little") + 1
    return None


def _of_tiff(encoded: bytes) -> tuple[int, int] | None:
    size: dict[int, int] = {}
    for tag, value in _tags(encoded):
        size.setdefault(tag, value)
    if _WIDTH in size and _HEIGHT in size:
        return size[_WIDTH], size[_HEIGHT]
    return None


def _tags(encoded: bytes) -> Iterator[tuple[int, int]]:
    """The whole numbers of the first directory of a TIFF."""
    order = "<" if encoded.startswith(b"II") else ">"
    is_big = encoded[2:4] in (b"+\0", b"\0+")
    (position,) = struct.unpack_from(
        order + ("Q" if is_big else "I"), encoded, 8 if is_big else 4
    )
    number = order + ("Q" if is_big else "H")
    (count,) = struct.unpack_from(number, encoded, position)
    position += struct.calcsize(number)
    for _ in range(count):
        tag, kind = struct.unpack_from(order + "HH", encoded, position)
        if kind in (3, 4, 16):
            form = order + {3: "H", 4: "I", 16: "Q"}[kind]
            value = struct.unpack_from(form, encoded, position + (12 if is_big else 8))
            yield tag, value[0]
        position += 20 if is_big else 12
