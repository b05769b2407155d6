"""What genes add to a scan: genetic models on the folds of a study, their fusion with the scan, and controls."""
