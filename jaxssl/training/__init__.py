"""Steps, state and files of a training run; this room does not know which loss it trains."""
