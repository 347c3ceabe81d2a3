"""Run folders in object storage: every process works on a local mirror, which is published file by file."""
