"""How many cards a stream of requests needs."""
