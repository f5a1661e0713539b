"""What everything stands on: errors, files, locks, signals, the environment, the workspace."""
