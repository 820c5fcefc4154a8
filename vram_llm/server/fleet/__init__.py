"""HTTP for a fleet: one application in front of several models, whose engines come and go."""
