"""The job: an atlas to a run of principal components."""
