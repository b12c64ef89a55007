"""A small disk of its own (ext4 in a file), which a test may fill, break and repair; needs root and loop devices."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A mounted disk; everything on it lies under `place`."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image = image
        self.place = place
        self._filler = place / "somebody-elses"

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.place))

    def unmount(self) -> None:
        """Waits for workers that were told to end."""
        for _ in range(100):
            if subprocess.run(["umount", str(self.place)], check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        _run("umount", "--lazy", str(self.place))

    def fill(self) -> None:
        """Leave no byte to anybody."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 10, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break

    def make_room(self) -> None:
        self._filler.unlink()

    def turn_read_only(self) -> None:
        """As ext4 does when it finds its own structures damaged, files open for writing or not."""
        _run("sync", "--file-system", str(self.place))
        _run("mount", "-o", "remount,abort", str(self.place))

    def put_away(self) -> None:
        """Mounted for reading only, as archives are."""
        self.unmount()
        _run("mount", "-o", "loop,ro", str(self._image), str(self.place))

    def repair(self) -> None:
        """What an administrator does."""
        self.unmount()
        self.mount()


@contextmanager
def small_disk(place: Path, *, mib: int) -> Iterator[Disk]:
    """A disk mounted at `place`/disk; skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a disk")
    image, directory = place / "image", place / "disk"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(mib << 20)
    disk = Disk(image, directory)
    try:
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    try:
        yield disk
    finally:
        disk.unmount()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
