from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that does other things too. The same examples every time, so that
# a failure is of the change at hand; `--hypothesis-profile search` looks for new ones.
settings.register_profile("repeatable", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("search", parent=settings.get_profile("repeatable"), derandomize=False, max_examples=3000)
settings.load_profile("repeatable")
