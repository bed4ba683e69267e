"""How the same labelled task is posed to each kind of model: one module a kind, see ``batch.Family``."""
