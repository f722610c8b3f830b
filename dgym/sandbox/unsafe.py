"""NO ISOLATION. Programs run as the user, see the user's files and network, and may do whatever the user may.

Only time, memory, processes, file size and output are limited, and leftovers are killed as far as they can be found.
It is used only when asked for by name (`--unsafe`, `DGYM_SANDBOX=unsafe`) and is meant for two cases: the whole of
dgym already runs in a container or virtual machine that may be lost, or the programs are known to be harmless.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import ClassVar

from dgym.sandbox.worker import Pool, Worker, command


class Unsafe(Pool):
    """NO ISOLATION: programs run as the user, and only how much they may use is limited; see the module."""

    name: ClassVar[str] = "unsafe"
    isolates: ClassVar[bool] = False

    def _start(self) -> Worker:
        folder = tempfile.mkdtemp(prefix="dgym-unsafe-")
        try:
            return Worker(command("bare"), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _finish(self, worker: Worker) -> None:
        worker.close()
        shutil.rmtree(worker.folder, ignore_errors=True)
