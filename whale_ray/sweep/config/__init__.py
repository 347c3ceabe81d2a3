"""The settings language of a sweep file: schema, YAML parser, axes and constraints.

`sweep_spec` combines them into a validated `Sweep`, with all faults reported at once.
"""
