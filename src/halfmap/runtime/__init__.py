"""What a run needs besides the science: log, progress, checkpoint file, lock, memory, interrupts and processes."""
