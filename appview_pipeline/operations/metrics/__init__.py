"""What Prometheus is told: families of metrics by topic, made from one reading of the database."""
