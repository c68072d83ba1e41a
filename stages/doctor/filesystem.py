"""Which file system a folder is on."""

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|lustre|gpfs|beegfs|ceph|glusterfs|9p|virtiofs|afs|ocfs2|gfs2|orangefs|pvfs2|wekafs|panfs"
    r"|fuse\.(sshfs|glusterfs|ceph.*|juicefs|cvmfs.*|moosefs|mfs)"
)
MOUNTED_BUCKET = re.compile(r"fuse\.?(s3fs|gcsfuse|goofys|mount-s3|mountpoint-s3|rclone|blobfuse2?|geesefs|ossfs)?")


@dataclass(frozen=True)
class FileSystem:
    """Where a folder is.

    Attributes:
        kind: ``ext4``, ``nfs4``, …; empty where the machine does not say.
        at: the folder where it is mounted.
    """

    kind: str
    at: str

    @property
    def is_network(self) -> bool:
        """Whether other machines write to it too, through a network."""
        return bool(NETWORK.fullmatch(self.kind))

    @property
    def is_bucket(self) -> bool:
        """Whether it may be a bucket that looks like a folder."""
        return bool(MOUNTED_BUCKET.fullmatch(self.kind))


def file_system(folder: Path, mounts: Path = MOUNTS) -> FileSystem:
    """Find the file system of a folder, which must be there."""
    resolved = folder.resolve()
    best = FileSystem("", "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another system than Linux
        return best
    for line in lines:
        before, _, after = line.partition(" - ")
        # Blanks in a name are written as \040. A later line hides an earlier one at the same place.
        at = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), (before.split(" ") + 5 * [""])[4])
        if at and resolved.is_relative_to(at) and len(at) >= len(best.at):
            best = FileSystem(after.split(" ")[0], at)
    return best
