"""Review of labels and copies: findings, review.csv and the section of the report."""
