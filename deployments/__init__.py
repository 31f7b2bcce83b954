"""What runs when, on which servers: flows are named by entrypoint string, never imported.

``prefect.yaml`` says what runs when; ``compose.yaml`` is the servers for people with Docker, and
:mod:`deployments.stack` the same servers without it.
"""
