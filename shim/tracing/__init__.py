"""OpenTelemetry spans; loaded only where OTEL_* is in the environment."""
