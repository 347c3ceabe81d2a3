"""Schema of the sweep file: every key with type, limits, default and meaning.

Each module holds the keys of some sections; `all_settings` joins them in the order of the settings reference.
"""
