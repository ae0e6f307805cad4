"""What several tests share: models, specs, contracts and stand-ins."""
