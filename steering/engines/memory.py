"""The memory of a device: what is free, and how its end is told."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def free_cached_memory() -> None:
    """Give back what an accelerator's allocator keeps for later; the CPU's keeps nothing."""
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory."""
    # The allocator of the CPU has no error of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
