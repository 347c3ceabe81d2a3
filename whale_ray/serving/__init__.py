"""The bundle as a service over HTTP."""
