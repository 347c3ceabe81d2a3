"""Access control of the HTTP service: API keys, scopes, host and origin checks.

Refusals are RFC 9457 problem documents.
"""
