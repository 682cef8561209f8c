"""Rows made out of rows before a stage trains: other wordings, wrong answers, answers that the model writes."""
