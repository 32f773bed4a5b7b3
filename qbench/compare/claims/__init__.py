"""What papers and sources claim, held against records: claims as data, and their verdicts."""
