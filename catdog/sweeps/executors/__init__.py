"""Where the runs of a sweep are trained: `executor` says what a sweep asks for; `local` is this machine, `slurm` a cluster."""
