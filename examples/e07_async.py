"""Tasks and bodies may be async. Branches of the body run side by side, each in a scope of its own, so that the keys
of their steps don't depend on which is faster.

Prints what two branches found out, and the keys of their last steps.
"""

import asyncio

from dagengine import aio, context, task, workflow


@task
async def halve(number: int) -> int:
    await asyncio.sleep(0)
    return number // 2


@task
async def where() -> str:
    key = context().key
    return key or "outside of a run"


async def count_halvings(number: int) -> tuple[int, str]:
    """One branch: wait, decide, go on."""
    times = 0
    while number > 1:
        number = await aio.get(halve(number))
        times += 1
    return times, await where()


@workflow
async def halvings(numbers: tuple[int, ...] = (1000, 7)) -> list[tuple[int, str]]:
    return await asyncio.gather(*(count_halvings(number) for number in numbers))


if __name__ == "__main__":
    for times, key in halvings.run():
        print(f"{times} times, {key}")
