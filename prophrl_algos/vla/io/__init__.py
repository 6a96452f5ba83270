"""Read and write the files of policies: weights, statistics, whole folders."""
