"""Folders that cannot be used as they are: each is found, and nothing stays in them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from test_doctor import found

from gdist.stages.doctor import disk
from gdist.stages.doctor.filesystem import FileSystem, file_system

Gdist = Callable[..., Result]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of 1 MB in memory; only root may."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def test_a_full_disk(gdist: Gdist, mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=1m")
    assert found(gdist("doctor", folder, "--json"))[f"{folder}: free space"]["status"] == "note"
    with pytest.raises(OSError, match="No space"):
        (folder / "all").write_bytes(bytes(1 << 21))
    check = found(gdist("doctor", folder, "--json"))[f"{folder}: write"]
    assert check["status"] == "problem" and check["value"] == "No space left on device"
    assert check["hint"].startswith("free some space")
    assert [path.name for path in folder.iterdir()] == ["all"]


def test_a_disk_that_has_no_room_for_another_file(gdist: Gdist, mounted: Callable[[str], Path]) -> None:
    folder = mounted("nr_inodes=3")
    for name in ("a", "b"):
        (folder / name).touch()
    assert found(gdist("doctor", folder, "--json"))[f"{folder}: free space"]["value"] == "no file more"


def test_a_read_only_disk(gdist: Gdist, mounted: Callable[[str], Path]) -> None:
    folder = mounted("ro")
    check = found(gdist("doctor", folder, "--json"))[f"{folder}: write"]
    assert (check["status"], check["value"]) == ("problem", "Read-only file system")
    assert f"{folder}: write" not in found(gdist("doctor", folder, "--json", "--read-only"))
    assert next(iter(disk.check_folder(folder, named=False, read_only=True))).status == "ok"
    *_, last = disk.check_folder(folder, named=False, read_only=False)
    assert last.status == "note", "nobody asked for the current folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(gdist: Gdist, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        check = found(gdist("doctor", tmp_path, "--json"))[f"{tmp_path}: write"]
    finally:
        tmp_path.chmod(0o700)
    assert (check["status"], check["value"]) == ("problem", "Permission denied")


def test_a_folder_that_is_not_there_yet_and_a_file(gdist: Gdist, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    names = ("new/cache", "file/inside", "loop/inside", "file")
    checks = found(gdist("doctor", *(tmp_path / name for name in names), "--json"))
    assert f"{tmp_path} is examined" in checks[f"{tmp_path}/new/cache: folder"]["value"]
    assert checks[f"{tmp_path}/new/cache: locks"]["status"] == "ok"
    for name in names[1:]:
        assert checks[f"{tmp_path}/{name}: folder"]["status"] == "problem"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_an_interrupted_check_leaves_nothing(tmp_path: Path) -> None:
    checks = disk.check_folder(tmp_path, named=True, read_only=False)
    for check in checks:
        if check.name == "write":
            break
    assert list(tmp_path.iterdir()), "it is in the middle of it"
    checks.close()
    assert not list(tmp_path.iterdir())


def test_the_file_system_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with blank" / "in"
    folder.mkdir(parents=True)
    escaped = str(folder.parent).replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"30 22 0:50 / {escaped} rw - nfs4 server:/export rw,vers=4.2\n"
        f"31 22 0:51 / {tmp_path}/with rw - tmpfs tmpfs rw\n"
    )
    assert file_system(folder, mounts) == FileSystem("nfs4", str(folder.parent))
    assert file_system(folder, mounts).is_network and not file_system(tmp_path, mounts).is_network
    assert FileSystem("fuse.s3fs", "/").is_bucket and not FileSystem("fuse.sshfs", "/").is_bucket
