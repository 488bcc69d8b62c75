"""The paper's study: every method on the same patients, with honest statistics."""
