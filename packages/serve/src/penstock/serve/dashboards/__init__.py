"""Dashboards for Grafana and alert rules for Prometheus: of servers, of training, and of the load of experts.

`serving`, `training` and `experts` say what is watched, `grafana` and `alerts` how it is written, and `files` has every
file.
"""
