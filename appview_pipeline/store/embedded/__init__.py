"""The embedded PostgreSQL: a server of our own, which starts when a process needs it and stops after the last one."""
