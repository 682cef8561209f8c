"""Numbers about one model, each with an interval and each row's own score."""
