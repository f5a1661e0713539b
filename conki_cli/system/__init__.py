"""The foundation: errors, files, locks, signals, the environment, the workspace."""
