"""Builds `pykvm._kvm._binding`: the one place where C meets Python.

cffi's API mode: the C compiler reads `<linux/kvm.h>` and fills in every number, offset and size, so none is
written down here. The declarations that Python sees are in `*.cdef`, the code is in `*.c`.
"""

from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent

INCLUDES = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#error "pykvm needs the kernel headers of Linux 6.1 or newer (Debian: linux-libc-dev)"
#endif
"""


def text(*names: str) -> str:
    """Return the named files of this folder, one after the other."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


ffibuilder = cffi.FFI()
ffibuilder.cdef(text("kvm.cdef", "loop.h", "loop.cdef"))
ffibuilder.set_source(
    "pykvm._kvm._binding",
    INCLUDES + text("loop.h", "state.h", "signals.c", "record.c", "loop.c"),
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wno-unused-function"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent.parent), verbose=True)
