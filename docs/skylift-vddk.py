# An nbdkit plugin that serves the disks of vSphere snapshots by their names,
# so that one nbdkit is enough for all of them: each connection gets an nbdkit
# of its own with the vddk plugin, which opens one disk. docs/setup.md tells
# how it is run.
#
# It needs nbdkit with its python and vddk plugins, VMware's VDDK, and libnbd's
# Python module. Settings: server, user, password-file, thumbprint, libdir, and
# nbdkit where that is not on the path.

import re

import nbd
import nbdkit

API_VERSION = 2

# The export's name as Skylift's nbd.url gives it: {vm}/{snapshot}/{file}.
# Without a snapshot there is no export: a live disk is not to be copied.
NAME = re.compile(r"([\w-]+)/([\w-]+)/(\[[^\]]+\] .+\.vmdk)")
NEEDED = {"server", "user", "password-file", "thumbprint", "libdir"}

settings = {"nbdkit": "nbdkit"}


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    if key not in NEEDED | {"nbdkit"}:
        raise RuntimeError("unknown setting: " + key)
    settings[key] = value


def config_complete():
    missing = NEEDED - settings.keys()
    if missing:
        raise RuntimeError("not set: " + ", ".join(sorted(missing)))


def open(readonly):
    name = NAME.fullmatch(nbdkit.export_name())
    if not name:
        raise RuntimeError("the export's name is not VM/SNAPSHOT/[DATASTORE] FILE.vmdk")
    vm, snapshot, file = name.groups()
    disk = nbd.NBD()
    disk.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    disk.connect_command([
        settings["nbdkit"], "-r", "-s", "--exit-with-parent", "vddk",
        "libdir=" + settings["libdir"],
        "server=" + settings["server"],
        "user=" + settings["user"],
        "password=+" + settings["password-file"],
        "thumbprint=" + settings["thumbprint"],
        "vm=moref=" + vm,
        "snapshot=" + snapshot,
        "file=" + file,
    ])
    return disk


def close(disk):
    disk.shutdown()


def get_size(disk):
    return disk.get_size()


def can_write(disk):
    return False


def pread(disk, buf, offset, flags):
    buf[:] = disk.pread(len(buf), offset)


def can_extents(disk):
    return disk.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)


def extents(disk, count, offset, flags):
    # libnbd's flags of base:allocation are nbdkit's own: 1 is a hole, 2 zero.
    found = []

    def note(context, start, entries, error):
        if context != nbd.CONTEXT_BASE_ALLOCATION:
            return
        for length, state in zip(entries[0::2], entries[1::2]):
            found.append((start, length, state))
            start += length

    disk.block_status(count, offset, note)
    return found
