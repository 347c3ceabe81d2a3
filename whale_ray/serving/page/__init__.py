"""The web page of the service: static HTML, CSS and JavaScript, and the routes that serve them.

The page calls the public HTTP API (`/v1/...`) from the browser, as any other client does.
"""
