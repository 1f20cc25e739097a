"""naive_uffd.py - a handler of Firecracker's handshake with a fault, for tests that have to notice it.

    naive_uffd.py SOCKET MEMORY-FILE removed    brings pages that were given back out of the file
    naive_uffd.py SOCKET MEMORY-FILE offset     takes all regions to begin where the file does
    naive_uffd.py SOCKET MEMORY-FILE none       has no fault

Serves one machine, and ends when that has gone.
"""

import ctypes
import errno
import json
import mmap
import os
import select
import socket
import struct
import sys

UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WAKE = 0xC028AA03, 0xC020AA04, 0x8010AA02
PAGEFAULT, REMOVE = 0x12, 0x15
PAGE = 4096


class Handler:
    def __init__(self, path, memory, fault):
        self.fault, self.removed = fault, set()
        with open(memory, 'rb') as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.socket = listener.accept()[0]
        text, fds, _, _ = socket.recv_fds(self.socket, 65536, 1)
        self.regions, self.fd = json.loads(text), fds[0]
        self.libc = ctypes.CDLL(None, use_errno=True)

    def call(self, request, *words):
        buffer = ctypes.create_string_buffer(struct.pack('%dQ' % len(words), *words))
        failed = self.libc.ioctl(self.fd, ctypes.c_ulong(request), buffer)
        return ctypes.get_errno() if failed else 0

    def bring(self, page):
        """Whether it is there now; otherwise events have to be read first."""
        if page in self.removed:
            return self.call(UFFDIO_ZEROPAGE, page, PAGE, 0, 0) != errno.EAGAIN
        for region in self.regions:
            offset = page - region['base_host_virt_addr']
            if 0 <= offset < region['size']:
                offset += 0 if self.fault == 'offset' else region['offset']
                result = self.call(UFFDIO_COPY, page, self.base + offset, PAGE, 0, 0)
                if result == errno.EEXIST:
                    self.call(UFFDIO_WAKE, page, PAGE)
                return result != errno.EAGAIN
        return True

    def read(self):
        faults = []
        while True:
            try:
                messages = os.read(self.fd, 64 * 32)
            except BlockingIOError:
                return faults
            for at in range(0, len(messages), 32):
                event, first, second = messages[at], *struct.unpack_from('QQ', messages, at + 8)
                if event == PAGEFAULT:
                    faults.append(second & ~(PAGE - 1))
                elif event == REMOVE and self.fault != 'removed':
                    self.removed.update(range(first, second, PAGE))

    def serve(self):
        waiting = []
        while True:
            ready = select.select([self.fd, self.socket], [], [], 0 if waiting else None)[0]
            if self.socket in ready and not self.socket.recv(64):
                return
            waiting = [page for page in waiting + self.read() if not self.bring(page)]


Handler(*sys.argv[1:4]).serve()
