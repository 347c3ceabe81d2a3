"""Files of a discovery: answers, clusters, questions and the training table."""
