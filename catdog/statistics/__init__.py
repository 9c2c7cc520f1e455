"""Numbers on numbers: contrasts, intervals, calibration, sequential boundaries. Arrays in, numbers out."""
