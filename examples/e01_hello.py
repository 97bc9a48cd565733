"""A task is a function whose calls are recorded; a workflow calls tasks; a run makes it happen.

Prints: Hello, world!
"""

from dagengine import task, workflow


@task
def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow
def hello(name: str = "world") -> str:
    return greet(name)


if __name__ == "__main__":
    print(hello.run())
