"""From one YAML file to trials, a leaderboard and the best bundle; importing it loads neither torch nor Ray."""
