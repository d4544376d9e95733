"""Rules for names of files and directories from a peer; none of them can lead outside the target directory."""

from __future__ import annotations

from punchlab.punch.errors import PunchError
from punchlab.punch.text import MOST_MARKS, has_stacked_marks, unsuitable_in_names
from punchlab.punch.transfer.files.partial_files import is_partial_name

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32  # components of a path


class FileError(PunchError):
    """A file cannot be stored, or not be read completely."""


class OfferError(FileError):
    """The cause is the offer itself, and not the state of the receiver."""


def check_name(name: str) -> None:
    """Raise `FileError` unless `name` is a plain file name on any system."""
    shown = _short(name)
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise OfferError(f"{shown} is not a plain file name")
    if any("\ud800" <= each <= "\udfff" for each in name):  # Python decodes bytes that are not UTF-8 to surrogates
        raise OfferError(f"{shown} is not UTF-8")
    if (found := unsuitable_in_names(name)) is not None:
        raise OfferError(f"{shown} contains a control character or an invisible one ({ascii(found)[1:-1]})")
    if has_stacked_marks(name):
        raise OfferError(f"{shown} contains more than {MOST_MARKS} combining marks in a row")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise OfferError(f"{shown} is longer than {MAX_NAME_BYTES} bytes")


def check_path(path: str) -> None:
    """Raise `FileError` unless each component of `path` passes `check_name`, and the path is not too long or deep."""
    shown = _short(path)
    if len(path) > MAX_PATH_BYTES or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        longest = MAX_PATH_BYTES if "/" in path else MAX_NAME_BYTES
        raise OfferError(f"{shown} is longer than {longest} bytes")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise OfferError(f"{shown} is deeper than {MAX_DEPTH} directories")
    for part in parts:
        try:
            check_name(part)
        except FileError as error:
            raise OfferError(f"{error} (in {shown})" if len(parts) > 1 else str(error)) from None
        if is_partial_name(part):
            raise OfferError(f"{shown} is reserved for unfinished files")


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
