"""A real Ceph object gateway from Debian's packages, small enough for a test: one monitor, one disk, one gateway.

    apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common

The disk is a sparse file. It starts in some ten seconds and holds a few gigabytes.
"""

import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import free_port

# The gateway needs real keys (cephx), and without tcp_nodelay a small range takes 44 ms instead of 2.
CONF = """
[global]
fsid = {fsid}
keyring = {folder}/keyring
mon_host = {monitor}
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 400
mon_data_avail_crit = 1
osd_data = {folder}/osd
osd_memory_target = 1073741824
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
bluestore_block_size = 6442450944
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log

[client.rgw]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""
USERS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "client.rgw": ("mon", "allow rwx", "osd", "allow rwx"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
}


def start_ceph(folder: Path, port: int, spawn: Callable[..., Any], access_key: str, secret_key: str) -> None:
    """Start the gateway at a port, with one user. ``spawn`` starts a process that stays."""
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    monitor, conf, keyring = f"v2:127.0.0.1:{free_port()}", folder / "ceph.conf", folder / "keyring"
    cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
    conf.write_text(CONF.format(fsid=cluster, folder=folder, monitor=f"[{monitor}]", port=port))
    environment = {"CEPH_CONF": str(conf)}

    def do(*command: object) -> None:
        done = subprocess.run(
            list(map(str, command)), env=os.environ | environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"

    for number, (user, capabilities) in enumerate(USERS.items()):
        caps = [word for pair in zip(capabilities[::2], capabilities[1::2], strict=True) for word in ("--cap", *pair)]
        do("ceph-authtool", *(() if number else ("--create-keyring",)), keyring, "--gen-key", "-n", user, *caps)
    do("monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"[{monitor}]", folder / "monmap")
    do("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "--keyring", keyring)
    spawn("ceph-mon", "-f", "-i", "a", **environment)
    do("ceph", "--connect-timeout", 30, "osd", "new", disk)
    do("ceph", "auth", "add", "osd.0", "-i", keyring)
    do("ceph", "auth", "add", "client.rgw", "-i", keyring)
    do("ceph-osd", "-i", 0, "--mkfs", "--osd-uuid", disk)
    spawn("ceph-osd", "-f", "-i", 0, **environment)
    spawn("radosgw", "-f", "-n", "client.rgw", **environment)
    keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
    do("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", *keys)
