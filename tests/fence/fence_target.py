"""The class whose methods the fenced process of the tests serves."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from kept.errors import CheckpointError
from kept.fence.frames import HEADER


class Target:
    def __init__(self, name: str) -> None:
        if name == "wrong":
            raise ValueError("no such name")
        self.name, self.counted = name, 0

    def both(self, value: object) -> tuple[object, bytes]:
        return [self.name, value], b"\x00bytes"

    def count(self) -> int:
        self.counted += 1
        return self.counted

    def zeros(self, count: int) -> tuple[None, bytes]:
        return None, bytes(bytearray(count))

    def refuse(self) -> None:
        raise CheckpointError("file: is wrong; mend it")

    def fail(self) -> None:
        raise RuntimeError("of a library")

    def lookup(self) -> None:
        raise KeyError("x")

    def sleep(self) -> None:
        time.sleep(60)

    def spin(self) -> None:
        while True:
            pass

    def crash(self) -> None:
        import ctypes

        ctypes.string_at(0)

    def write(self, path: str) -> None:
        Path(path).write_text("written")

    def remove(self, path: str) -> None:
        Path(path).unlink()

    def connect(self, port: int) -> None:
        socket.create_connection(("127.0.0.1", port), 1).close()

    def signal(self) -> None:
        os.kill(os.getppid(), 0)

    def fork(self) -> None:
        if not os.fork():
            os._exit(0)

    def socket(self) -> None:
        socket.socket(socket.AF_UNIX).close()

    def mode(self) -> None:
        Path(__file__).chmod(0o644)

    def limit(self) -> None:
        resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))

    def thread(self) -> str:
        done: list[str] = []
        thread = threading.Thread(target=done.append, args=("done",))
        thread.start()
        thread.join()
        return done[0]

    def say(self) -> str:
        os.write(1, b"something")
        return "said"

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def hang_up(self) -> None:
        os.closerange(3, 64)
        time.sleep(60)

    def lie(self, text: str) -> None:
        for pipe in range(3, 16):
            with suppress(OSError):
                os.write(pipe, HEADER.pack(len(text), 0) + text.encode())
        time.sleep(60)

    def process(self) -> int:
        return os.getpid()
