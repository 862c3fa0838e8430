"""What a process needs around its work: devices, other processes, signals, the console, files."""
