"""The subcommands of `whale-ray`, grouped by what they work on.

`whale_ray.cli` registers them; each one parses options and calls one function of the package.
"""
