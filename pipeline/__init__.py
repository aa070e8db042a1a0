"""What every stage shares and no model is needed for: errors, recipes, fingerprints, folders that appear only when whole."""
