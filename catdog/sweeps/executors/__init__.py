"""Where the runs of a sweep are trained: `executor` says what a sweep asks for; `local` has processes of this machine."""
