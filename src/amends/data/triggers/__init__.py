"""What attackers change in an image, one attack a file; `data/poison.py` decides in which rows, and keeps the truth."""
