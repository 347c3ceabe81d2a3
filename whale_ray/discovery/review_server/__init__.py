"""Web page on which a person compares pairs of photographs."""
