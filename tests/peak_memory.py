"""The peak memory of a process, for tests that start one to measure it."""

import re
import resource
import sys
from pathlib import Path


def peak_memory(who: int = resource.RUSAGE_SELF) -> int:
    """Bytes that this process, or its largest child, has had in memory at most.

    On Linux a process starts with the peak of the one that started it as `ru_maxrss`, so its own
    is read from /proc.
    """
    if who == resource.RUSAGE_SELF and sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])  # type: ignore[index]
    # Linux counts in kibibytes, macOS in bytes.
    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(who).ru_maxrss
