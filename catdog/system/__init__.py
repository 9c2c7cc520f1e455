"""The process and its surroundings: terminal, errors, files, memory, interrupts, clock, temporary folders."""
