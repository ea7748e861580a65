"""Which version of a model is champion, who made it so, when and why; MLflow's alias only shows it."""
