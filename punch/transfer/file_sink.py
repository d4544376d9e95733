"""Files on their way in: no half-written file, and no name that leads out of the directory.

Every file grows in a hidden directory of its session (`punch.transfer.partial`), wherever its place is. Directories are
made when all files are complete. Then all take their names, or none (`punch.transfer.naming`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from punchlab.punch.errors import ArgumentError, ConnectionLostError
from punchlab.punch.transfer.names import FileError, OfferError, check_path
from punchlab.punch.transfer.naming import Naming, cannot, is_there, locked, recover
from punchlab.punch.transfer.offer import DirectoryInfo, FileDone, FileInfo, Offered, StreamInfo, check_distinct
from punchlab.punch.transfer.owner import Owner
from punchlab.punch.transfer.partial import Partials, hash_prefix, identity
from punchlab.punch.transfer.safe_open import descended
from punchlab.punch.transfer.worker import checkpoint


class _Held(NamedTuple):
    """What of a file is here already: its size, its running SHA-256, and what file that was (see `identity`)."""

    size: int
    digest: hashlib._Hash
    identity: tuple[int, int, int, int]


class FileSink:
    """A directory that files arrive in. A context manager. All methods block, and have checkpoints.

    `owner` is the session that the files belong to until they have their names; without it nobody finds what stays. A
    file grows under a temporary name. When all are complete they take their own, or, if one cannot, none. Without
    `force` nothing may have the name of a file, or of the directory that was sent, before; with it directories are
    filled up, files and links replaced, and no directory by a file or the other way round. What a broken connection
    leaves stays, for `held` to find; what is refused or damaged is removed.
    """

    def __init__(self, directory: Path, *, force: bool, owner: Owner | None = None) -> None:
        """Raises `ArgumentError` if the directory cannot be written to."""
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ArgumentError("dir", str(directory), f"a directory ({error.strerror})") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            os.close(self._fd)
            raise ArgumentError("dir", str(directory), "a writable directory")
        self.path = str(directory.resolve())
        self._force = force
        self._partials = Partials(self._fd, owner or Owner.nobody())
        self._held: dict[FileInfo, _Held] = {}
        self._stored: dict[Offered, FileDone | None] = {}

    @property
    def owner(self) -> Owner:
        """The session that unfinished files belong to; to be set before there are any."""
        return self._partials.owner

    @owner.setter
    def owner(self, owner: Owner) -> None:
        self._partials = Partials(self._fd, owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._partials.close()
        os.close(self._fd)

    def check(self, offered: Sequence[Offered]) -> None:
        """Raise `FileError` if this cannot be stored here."""
        for info in offered:
            check_path(info.name)
        check_distinct(offered)
        new = [info for info in offered if info not in self._stored]
        with locked(self._fd):
            recover(self._fd, self._partials, new, force=self._force)
        if self._force:
            for info in new:
                checkpoint()
                self._check_replaceable(info)
        else:
            for name in {info.name.partition("/")[0] for info in new}:
                checkpoint()
                self._check_free(name)
        room = os.fstatvfs(self._fd)
        wanted = sum(info.size - self._size_held(info) for info in new if isinstance(info, FileInfo))
        free = room.f_bavail * room.f_frsize
        if wanted > free:
            raise FileError(f"no space for {wanted} bytes: {free} are free")

    def _size_held(self, info: FileInfo) -> int:
        try:
            name = self._partials.name(info.name, info.size)
            found = os.stat(name, dir_fd=self._partials.fd, follow_symlinks=False)
        except OSError:
            return 0
        return min(found.st_blocks * 512, info.size)

    def _check_free(self, name: str) -> None:
        try:
            taken = is_there(name, self._fd)
        except OSError as error:
            raise cannot(name, error) from None
        if taken:
            raise FileError(f"{name!r} exists already (--force overwrites)")

    def _check_replaceable(self, info: Offered) -> None:
        *above, last = info.name.split("/")
        try:
            with descended(self._fd, above) as fd:
                found = os.stat(last, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot(info.name, error) from None
        if stat.S_ISDIR(found.st_mode) and not isinstance(info, DirectoryInfo):
            raise FileError(f"{info.name!r} is a directory")
        if isinstance(info, DirectoryInfo) and not stat.S_ISDIR(found.st_mode):
            raise FileError(f"{info.name!r} is no directory here")

    def begun(self, offered: Sequence[Offered]) -> list[int]:
        """Which of these files an earlier connection may have brought in part or in full, by their numbers."""
        try:
            with os.scandir(self._partials.fd) as entries:
                unfinished = {entry.name for entry in entries}
        except OSError:
            unfinished = set()
        return [
            index
            for index, info in enumerate(offered)
            if isinstance(info, FileInfo)
            and (info in self._stored or self._partials.name(info.name, info.size) in unfinished)
        ]

    def held(self, info: FileInfo) -> tuple[int, bytes] | None:
        """How many bytes of a file an earlier connection has brought, and their SHA-256."""
        done = self._stored.get(info)
        if done is not None:
            return info.size, bytes.fromhex(done.sha256)
        try:
            fd = self._partials.open(self._partials.name(info.name, info.size), create=False)
        except OSError:
            return None
        try:
            before = identity(fd)
            size = min(os.fstat(fd).st_size, info.size)
            digest = hash_prefix(fd, size)
        except OSError:
            return None
        finally:
            os.close(fd)
        if digest is None or not size:
            return None
        self._held[info] = _Held(size, digest, before)
        return size, digest.digest()

    def create(self, info: FileInfo | StreamInfo, start: int = 0) -> Incoming:
        """Begin a file, or go on from byte `start`, which is as far as `held` said. Raises `FileError`."""
        if not start:
            return Incoming(self._partials, info, None)
        held = self._held.get(info) if isinstance(info, FileInfo) else None
        if held is None or held.size != start:
            raise OfferError(f"{info.name!r} cannot go on from byte {start}")
        return Incoming(self._partials, info, held)

    def already_stored(self, info: FileInfo | StreamInfo, sha256: bytes) -> FileDone | None:
        """What became of a file that an earlier connection of this process brought in full. Raises `FileError`."""
        done = self._stored.get(info)
        if done is not None and done.sha256 != sha256.hex():
            raise OfferError(f"{info.name!r} has changed since it was stored")
        return done

    def store(self, offered: Sequence[Offered], arrived: Sequence[Incoming]) -> None:
        """Give verified files their names, and make the directories that were offered. Raises `FileError`."""
        new = [info for info in offered if info not in self._stored]
        directories = [info for info in new if isinstance(info, DirectoryInfo)]
        trees = {info.name.partition("/")[0] for info in new if "/" in info.name}
        try:
            with locked(self._fd), Naming(self._fd, self._partials) as naming:
                for name in sorted(trees | {info.name for info in directories if "/" not in info.name}):
                    self._begin_tree(naming, name)
                for info in directories:
                    try:
                        naming.make_directory(info.name)
                    except OSError as error:
                        raise cannot(info.name, error) from None
                for incoming in arrived:
                    incoming.take_name(functools.partial(naming.place, replace=self._force))
                naming.show()
        except OSError as error:
            raise FileError(f"nothing can be stored: {error.strerror}") from None
        self._partials.close()
        self._stored.update(dict.fromkeys(directories))
        self._stored.update((incoming.info, incoming.done) for incoming in arrived)

    def _begin_tree(self, naming: Naming, name: str) -> None:
        try:
            if not (self._force and is_there(name, self._fd)):
                naming.build_aside(name)
        except OSError as error:
            raise cannot(name, error) from None

    def discard(self, offered: Sequence[Offered]) -> None:
        """Remove what is unfinished of this, unless somebody else works on it."""
        for info in offered:
            checkpoint()
            if not isinstance(info, DirectoryInfo):
                self._partials.discard(self._partials.name(info.name, getattr(info, "size", None)))
        self._partials.close()


class Incoming:
    """One file that is arriving. A context manager: what is not verified is removed, unless the connection broke.

    All raise `FileError`.
    """

    def __init__(self, partials: Partials, info: FileInfo | StreamInfo, held: _Held | None) -> None:
        self.info = info
        self._expected = info.size if isinstance(info, FileInfo) else None
        self._partials = partials
        self._hash = hashlib.sha256() if held is None else held.digest.copy()
        self._size = 0 if held is None else held.size
        self._done: FileDone | None = None
        self._identity: tuple[int, int, int, int] | None = None
        self._temporary = partials.name(info.name, self._expected)
        try:
            self._fd = partials.open(self._temporary, create=True)
        except OSError as error:
            raise self._failed(error) from None
        try:
            # Between the look at it and now it was not locked: another process may have received into it.
            if held is not None and identity(self._fd) != held.identity:
                raise FileError(f"what was held of {info.name!r} has changed")
            os.truncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._done is None and not (kind is not None and issubclass(kind, ConnectionLostError)):
            with contextlib.suppress(OSError):
                self._partials.remove(self._temporary)
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Append `data`, within the size that was offered."""
        self._size += len(data)
        if self._expected is not None and self._size > self._expected:
            raise OfferError(f"{self.info.name!r} is longer than the {self._expected} bytes that were offered")
        self._hash.update(data)
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            raise self._failed(error) from None

    def verify(self, sha256: bytes) -> None:
        """The file is complete: keep it, still under its temporary name."""
        if self._expected not in (None, self._size) or self._hash.digest() != sha256:
            raise OfferError(f"{self.info.name!r} arrived damaged")
        self._set_mode()
        self._identity = identity(self._fd)
        self._done = FileDone(self.info.name, self._size, sha256.hex())

    def _set_mode(self) -> None:
        """Whoever may read it may execute it, if its owner may on the other side; as `rsync --executability` does."""
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        wanted = mode & 0o666
        if isinstance(self.info, FileInfo) and self.info.executable:
            wanted |= (mode & 0o444) >> 2
        if wanted != mode:
            with contextlib.suppress(OSError):  # a file system without such modes (FAT): the content counts
                os.fchmod(self._fd, wanted)

    @property
    def done(self) -> FileDone:
        """What a verified file is."""
        if self._done is None:
            raise FileError(f"{self.info.name!r} is not complete")
        return self._done

    def take_name(self, place: Callable[[str, str], None]) -> None:
        """Give a verified file its name, by calling `place` with its temporary name and its own."""
        try:
            fd = self._partials.open(self._temporary, create=False)
        except OSError as error:
            raise self._failed(error) from None
        try:
            if identity(fd) != self._identity:
                raise FileError(f"{self.info.name!r} was changed after it had arrived")
            place(self._temporary, self.info.name)
        except OSError as error:
            raise cannot(self.info.name, error) from None
        finally:
            os.close(fd)

    def _failed(self, error: OSError) -> FileError:
        return FileError(f"{self.info.name!r} cannot be stored: {error.strerror}")
