"""Routes of what waits for a person: photographs of new animals and proposed enrolments."""
