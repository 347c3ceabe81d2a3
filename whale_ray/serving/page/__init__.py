"""The web page of the service.

It uses the public HTTP API like any other client.
"""
