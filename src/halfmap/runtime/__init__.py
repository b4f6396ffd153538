"""What a run needs besides the science: terminal progress and the log."""
