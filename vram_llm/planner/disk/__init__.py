"""Models larger than the memory: what stays in the file, what each token reads, and how long that takes."""
