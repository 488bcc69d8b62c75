"""How charts look, wherever they are drawn: in a page, in a study's figures, during a training."""
