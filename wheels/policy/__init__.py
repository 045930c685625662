"""The deferral head: what it sees, what it says, and its calibrated thresholds."""
