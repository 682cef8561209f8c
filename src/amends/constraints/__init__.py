"""What an answer is asked to satisfy, as data; and checkers that say by how much it does not."""
