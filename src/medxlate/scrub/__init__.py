"""The search for what identifies a patient."""
