"""`python -m whale_ray.sweep SWEEP.yaml`."""

from whale_ray.sweep.command import main

if __name__ == "__main__":
    main()
