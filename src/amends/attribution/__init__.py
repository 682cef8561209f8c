"""Attribution: a score for every weight, by which an edit chooses what may be trained."""
