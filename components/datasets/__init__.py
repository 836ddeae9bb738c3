"""Raw logs as interactions: what each known log looks like, and the readers behind."""
