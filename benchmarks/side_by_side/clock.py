"""Wall time and processor time of a stretch of code."""

import time


class Clock:
    """Runs from its making on. Processor time (of all threads) is what a busy machine
    distorts least."""

    def __init__(self):
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._processor,
        }
