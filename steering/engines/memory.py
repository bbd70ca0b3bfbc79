"""Free memory of a device in bytes, and detection of out-of-memory errors."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def free_cached_memory() -> None:
    """Free what an accelerator's allocator caches; the CPU's allocator caches nothing."""
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass ran out of memory."""
    # The allocator of the CPU raises a RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
