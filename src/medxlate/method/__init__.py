"""The paper's method and what it is compared with: networks, objective, learners."""
