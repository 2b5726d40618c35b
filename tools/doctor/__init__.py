"""Look at a running deployment, wherever it runs, and say what is wrong with it and what to do about it.

``make doctor``, or ``PYTHONPATH=tools python3 -m doctor --help``. It needs nothing but Python, and ``docker``
or ``kubectl`` where the deployment runs in containers. Each service looks at its own surroundings, from where
it runs (``python -m artcafe_<service> doctor``); this asks every replica of all of them, looks at NATS and at
the edge, and compares what they say.
"""
