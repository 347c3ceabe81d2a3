"""Discovery: individuals in photographs without names, by clustering and the answers of a person."""
