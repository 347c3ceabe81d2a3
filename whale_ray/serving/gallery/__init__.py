"""The gallery of a running service: the bundle's images plus enrolled ones, in versions.

It is stored in SQLite or PostgreSQL.
"""
