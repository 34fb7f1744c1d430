"""Documents into Qdrant, with the preferences recorded beside the vectors."""
