"""The only training loop, and what it stands on. Methods never see it."""
