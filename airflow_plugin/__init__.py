"""The Airflow provider: dagengine's runs as Airflow tasks. Nothing is here yet.

It will translate and hold no engine logic and no state that the store does not have. It is the only place that imports
Airflow; of ours it may import the workflow layer, and nobody imports it.
"""
