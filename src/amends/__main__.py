"""`python -m amends`, which is what `accelerate launch -m amends` starts."""

from amends.cli.app import main

if __name__ == "__main__":
    main()
