"""A bundle as an HTTP service on Ray Serve, with a web page.

Enrolments are stored durably and visible to the next request.
"""
