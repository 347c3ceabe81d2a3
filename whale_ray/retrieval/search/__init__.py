"""Exact cosine search, voting, whitening, query expansion and re-ranking: from vectors to ranked individuals.

`searcher` is the one way from vectors to a ranking, for measuring and for serving.
"""
