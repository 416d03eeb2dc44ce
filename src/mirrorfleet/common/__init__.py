"""The ground: what all rooms share. Names, steps on a file system, configuration, schemas, locks and guards,
progress, the log, the exposition of metrics, and the one HTTP client. It imports nothing of ours."""
