"""File system steps that leave a tree whole whatever dies in between."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# Every temporary name of ours has this prefix: upstream's file names never start with a dot.
TEMPORARY = ".mirrorfleet-"


def temporary_for(path: Path) -> Path:
    """Where the content of `path` is written first. The same name each time, so that kills pile up nothing."""
    return path.parent / f"{TEMPORARY}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by one rename; readers see the former or the new content."""
    write_together({path: data}, durable=durable)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """A disk that is full, or broken, does not say of which file that is open: here it does."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            error.filename = str(path)
        raise


def write_together(contents: Mapping[Path, bytes], *, durable: bool = True) -> None:
    """Replace files by renames that follow each other at once: all that is written is, before the first."""
    temporaries = {path: temporary_for(path) for path in contents}
    try:
        for path, data in contents.items():
            with named(path), temporaries[path].open("wb") as stream:
                stream.write(data)
                os.fchmod(stream.fileno(), 0o644)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise


def _put(path: Path, make: Callable[[Path], None]) -> None:
    """Replace `path` by a link that is made anew; one rename."""
    temporary = temporary_for(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    make(temporary)
    os.replace(temporary, path)


def replace_symlink(path: Path, target: str) -> bool:
    """Make `path` a link to `target` by one rename; says whether anything changed."""
    try:
        if os.readlink(path) == target:
            return False
    except OSError:
        if path.is_dir() and not path.is_symlink():
            raise
    _put(path, lambda temporary: os.symlink(target, temporary))
    return True


def link_file(source: Path, target: Path) -> bool:
    """Make `target` a hard link to `source`, replacing what is there; says whether anything changed."""
    try:
        os.link(source, target)
        return True
    except FileNotFoundError:
        os.makedirs(target.parent, exist_ok=True)
    except FileExistsError:
        if os.path.samefile(source, target):
            return False
    _put(target, lambda temporary: os.link(source, temporary))
    return True


def sync_file_system(path: Path) -> None:
    """Everything written so far below `path`'s mount survives a power cut; one call for a whole batch."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", str(path))
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def regular_size(path: Path) -> int | None:
    """The size of a regular file, None for anything else: a symlink is never followed out of the tree."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def remove(path: Path) -> bool:
    """Remove a file, link or directory; says whether there was one."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def prune_empty_parents(path: Path, root: Path) -> None:
    """Remove the directories above `path` that became empty, up to but without `root`."""
    for parent in path.parents:
        if parent == root or root not in parent.parents:
            return
        try:
            parent.rmdir()
        except FileNotFoundError:  # a kill may have left only some of them
            continue
        except OSError:
            return


def remove_temporaries(directory: Path) -> None:
    """Remove what a killed program of ours or bandersnatch left: every other name begins with no dot."""
    for entry in entries(directory):
        if entry.name.startswith("."):
            remove(Path(entry.path))


def entries(path: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory, none when it is not there."""
    try:
        with os.scandir(path) as scan:
            yield from scan
    except FileNotFoundError:
        return


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
