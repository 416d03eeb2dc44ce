"""The ground: what all rooms share. Names, steps on a file system, configuration, schemas, locks and guards,
progress, the log, and the exposition of metrics. It imports nothing of ours."""
