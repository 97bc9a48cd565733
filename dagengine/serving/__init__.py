"""Long-lived service: submitted runs, queues, schedules, and the processes that work on them."""
