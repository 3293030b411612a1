"""Files that deploy a server and what watches it: Dockerfile, compose file, Kubernetes manifests, and the configuration
of Prometheus and Grafana. All of them are written from one `deployment.Deployment`.
"""
