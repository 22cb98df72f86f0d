"""Counts what XLA compiles in this process, and the seconds that it takes."""

import jax.monitoring


class Compiles:
    """Counts from its making on; programs found in a compilation cache don't count."""

    def __init__(self):
        self.count, self.seconds, self._cached = 0, 0.0, 0
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def _duration(self, event: str, duration: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += duration

    def _event(self, event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            self._cached += 1

    def report(self) -> dict[str, float]:
        return {"compiles": self.count - self._cached, "compile_seconds": self.seconds}
