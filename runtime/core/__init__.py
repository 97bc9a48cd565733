"""The scheduler core: tasks, objects, memory, placement, actors and recovery of many nodes, as one pure state machine."""
